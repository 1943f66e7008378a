"""From scenes to batches, and from batches to weights."""
