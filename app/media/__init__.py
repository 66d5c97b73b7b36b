"""Media: what clients send and what the engine makes, from the first byte to the last."""
