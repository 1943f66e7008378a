"""Quantized weights of 8 or 4 bits for the SAT network: less memory and memory traffic, on any device."""
