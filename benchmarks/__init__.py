"""Measurements of speed and memory, one script for each target."""
