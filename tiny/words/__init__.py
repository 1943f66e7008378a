"""Sentence templates and vocabulary, in Chinese and English."""
