"""An evaluation: its questions, their results, and the reports of them."""
