"""Which visual tokens a model can do without."""
