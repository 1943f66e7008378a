"""Images: from a file, a URL or a data URL to pixels, and to cached image embeddings."""
