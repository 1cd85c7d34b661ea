"""The Triton models of an LLM: tensors in, typed requests, tensors out. Importable inside a stub only.

A version folder's model.py names the one that it runs; what they call lies beside this package, and knows nothing about
tensors.
"""

from .. import loading

# What a model imports is a good part of what loading it takes.
loading.begin()
