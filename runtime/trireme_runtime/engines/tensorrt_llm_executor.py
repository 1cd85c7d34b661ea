"""TensorRT-LLM's executor over an engine folder that trtllm-build made, on one NVIDIA GPU, in a child process."""

import math
from pathlib import Path

from .base import EngineSettings
from .child_engine import ChildEngine
from .tensorrt_llm_folder import EngineFolderError, read_engine_folder
from .tensorrt_llm_llmapi import TENSORRT_LLM_HONOURS

#: What the engine can honour besides, if it was built for more than one beam.
HONOURS_WITH_BEAMS = frozenset({"beam_width", "len_penalty"})


class TensorRtLlmEngine(ChildEngine):
    """An `Engine` over an engine folder of TensorRT-LLM 1.2; see `tensorrt_llm_folder`.

    Raises EngineFolderError for a folder that cannot be used, RuntimeError if tensorrt_llm is not installed or cannot
    load the engine, EngineDied if the child ends before it is ready.
    """

    name = "tensorrt_llm_engine"
    honours = TENSORRT_LLM_HONOURS
    #: While the GPU computes, the process may wait without using the processor.
    standstill_s = math.inf

    def __init__(self, folder: Path, settings: EngineSettings) -> None:
        checked = read_engine_folder(folder)
        if checked.world_size != 1:
            raise EngineFolderError(
                f"{folder / 'config.json'}: pretrained_config.mapping is for {checked.world_size} GPUs; "
                "this adapter runs engines for one"
            )
        if checked.max_beam_width > 1:
            self.honours = self.honours | HONOURS_WITH_BEAMS
        super().__init__("trireme_runtime.engines.tensorrt_llm_executor_child", folder, settings)
