"""The programs: the terminal, the web page and the HTTP server."""
