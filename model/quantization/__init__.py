"""Weights of 8 or 4 bits for the SAT network: less memory to hold and to read, on any device."""
