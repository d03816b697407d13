"""How fast scoring and decoding are on this machine, beside simpler ways to the same results."""
