"""Networks: encoders that turn observations into features, heads that turn features into answers."""
