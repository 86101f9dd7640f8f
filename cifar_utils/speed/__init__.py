"""What makes training faster and is not needed to understand it."""
