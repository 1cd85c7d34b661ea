"""OpenAI's API: what may be sent, what it asks for, and how answers and errors are worded."""
