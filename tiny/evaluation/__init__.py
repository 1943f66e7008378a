"""An evaluation: questions -> results -> reports."""
