"""The engine slot: token ids in, token ids out. One adapter a module; only they import an inference engine."""

from collections.abc import Callable
from pathlib import Path

from .base import Engine, EngineSettings
from .child_engine import ChildEngine
from .null import NullEngine
from .openvino import OpenVinoEngine
from .tensorrt_llm_executor import TensorRtLlmEngine
from .tensorrt_llm_llmapi import TensorRtLlm

_ADAPTERS: tuple[type[ChildEngine], ...] = (OpenVinoEngine, TensorRtLlm, TensorRtLlmEngine, NullEngine)

_STARTERS: dict[str, Callable[[Path, EngineSettings], Engine]] = {engine.name: engine for engine in _ADAPTERS}

#: The inputs of `tensorrt_llm` that each engine honours whatever model it runs, by its name.
HONOURED = {engine.name: frozenset(engine.honours) for engine in _ADAPTERS}

#: The engines that this version of Trireme has an adapter for.
ENGINE_NAMES = tuple(_STARTERS)


def load_engine(name: str, folder: Path, settings: EngineSettings) -> Engine:
    """Start the engine called `name` on the model in `folder` and wait until it is ready.

    Raises ValueError for an unknown name, and what the adapter raises if the model cannot be loaded.
    """
    if name not in _STARTERS:
        raise ValueError(f"engine has the value {name!r}; known are {', '.join(ENGINE_NAMES)}")
    return _STARTERS[name](folder, settings)
