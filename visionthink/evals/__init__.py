"""How good, at what cost."""
