"""Features of items and users, and the feature matrices made from them."""
