"""tensorrt_llm.bindings: the compiled module."""

from . import executor

__all__ = ["executor"]
