"""Releases: one version of each model of an LLM, put live as a whole under traffic, watched, and taken back."""
