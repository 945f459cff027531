"""Was it good."""
