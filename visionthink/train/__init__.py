"""How the model moves."""
