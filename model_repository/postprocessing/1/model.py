"""Token ids to text: stateless detokenization of one chunk of a stream."""

from trireme_runtime.models.postprocessing import TritonPythonModel

__all__ = ["TritonPythonModel"]
