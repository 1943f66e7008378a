"""The programs: the chat in the terminal, the web page and the HTTP server."""
