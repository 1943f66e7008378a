"""Scenes -> rows of tokens -> batches -> training steps."""
