"""A gateway that speaks OpenAI's APIs and lets a model ask for the pixels that a question needs."""
