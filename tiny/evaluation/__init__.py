"""Evaluation: questions -> results -> reports."""
