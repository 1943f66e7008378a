"""Training: scenes -> token ids -> batches -> training steps."""
