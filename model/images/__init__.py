"""Pictures: from a file, a URL or a data URL to pixels, and to the image embeddings that are cached."""
