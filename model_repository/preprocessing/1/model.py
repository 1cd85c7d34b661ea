"""Prompts to token ids: batched tokenization and the chat template."""

from trireme_runtime.models.preprocessing import TritonPythonModel

__all__ = ["TritonPythonModel"]
