"""The gateway: an OpenAI-compatible server before a model that looks at a part of the pixels first."""
