"""Features plus: biases, content factors and residual SVD, fitted out of fold on the training rows."""
