"""OpenAI's API in front of one or many Triton servers."""
