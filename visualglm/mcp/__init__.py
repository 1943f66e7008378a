"""The tool ask_picture for programs that speak the Model Context Protocol (MCP), over stdio and HTTP."""
