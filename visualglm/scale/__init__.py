"""Bulk work and serving on several GPUs and machines, with Ray. Only its modules import ray."""
