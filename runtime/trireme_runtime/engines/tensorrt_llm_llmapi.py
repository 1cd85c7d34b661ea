"""TensorRT-LLM's LLM API with its PyTorch backend, on one NVIDIA GPU, in a child process."""

import math
from pathlib import Path

from .base import EngineSettings
from .child_engine import ChildEngine

#: What both adapters of TensorRT-LLM can honour. Texts (bad words, guides) they cannot: they see ids only.
TENSORRT_LLM_HONOURS = frozenset(
    {
        "end_id",
        "ignore_eos",
        "temperature",
        "runtime_top_k",
        "runtime_top_p",
        "seed",
        "min_tokens",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "return_log_probs",
        "return_perf_metrics",
    }
)


class TensorRtLlm(ChildEngine):
    """An `Engine` over a Hugging Face checkpoint folder, quantized or not: config.json and safetensors.

    No beam search: this backend has one width for all requests. Raises RuntimeError if tensorrt_llm is not installed or
    cannot load the model, EngineDied if the child ends before it is ready.
    """

    name = "tensorrt_llm"
    honours = TENSORRT_LLM_HONOURS
    #: While the GPU computes, the process may wait without using the processor.
    standstill_s = math.inf

    def __init__(self, folder: Path, settings: EngineSettings) -> None:
        super().__init__("trireme_runtime.engines.tensorrt_llm_llmapi_child", folder, settings)
