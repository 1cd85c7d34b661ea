"""Load tests of LLM servers: Locust drives, and what is measured is what users of an LLM notice."""
