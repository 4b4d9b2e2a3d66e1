"""What outlives the service: keys, and usage by key and model."""
