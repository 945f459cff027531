"""The gateway: an OpenAI-compatible server in front of a model that looks at a part of the pixels first."""
