"""Files shipped with the package; `tiny/` holds the embedded model's two checkpoints (see `recipes.tiny`)."""
