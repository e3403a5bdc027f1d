"""The network: training, on one or several processes, and prediction."""
