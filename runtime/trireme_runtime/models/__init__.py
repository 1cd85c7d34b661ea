"""The Triton models of an LLM: tensors in, typed requests, tensors out. Importable inside a stub only.

A version folder's model.py names the one that it runs; what they call lies beside this package, and knows nothing about
tensors.
"""
