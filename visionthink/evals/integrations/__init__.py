"""Other evaluation tools, driving the same episodes."""
