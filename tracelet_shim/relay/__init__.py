"""The right half of the picture: decode, a worker for each tracker, retry, deadlines."""
