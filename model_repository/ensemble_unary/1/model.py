"""One request, one answer: passes requests on to the decoupled ensemble."""

from trireme_runtime.models.unary import TritonPythonModel

__all__ = ["TritonPythonModel"]
