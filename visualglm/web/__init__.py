"""The web page: a visitor's conversation, its wording, its files, and the page itself, built with Gradio."""
