"""Token ids to token ids: the engine slot."""

from trireme_runtime.models.engine import TritonPythonModel

__all__ = ["TritonPythonModel"]
