"""The terminal program, and what the command lines of all programs share."""
