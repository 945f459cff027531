"""Rules that compare closed forms."""
