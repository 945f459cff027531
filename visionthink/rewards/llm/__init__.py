"""A language model as the judge, behind any endpoint that speaks OpenAI's chat completions."""
