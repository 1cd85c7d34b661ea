"""tensorrt_llm/llmapi/llm_args.py: KvCacheConfig, and the names and types of TorchLlmArgs that adapters give."""

from dataclasses import dataclass, fields

from .._checks import check

#: Of BaseLlmArgs and TorchLlmArgs.
ARGUMENTS = {
    "max_batch_size": "int?",
    "max_num_tokens": "int?",
    "max_seq_len": "int?",
    "max_beam_width": "int?",
    "enable_chunked_prefill": "bool",
    "sampler_type": "str",
}

SAMPLERS = ("auto", "TorchSampler", "TRTLLMSampler")


@dataclass(kw_only=True)
class KvCacheConfig:
    """A StrictBaseModel: unknown fields are refused."""

    enable_block_reuse: bool = True
    max_tokens: int | None = None
    free_gpu_memory_fraction: float | None = 0.9
    tokens_per_block: int = 32

    def __post_init__(self) -> None:
        kinds = {"enable_block_reuse": "bool", "max_tokens": "int?", "free_gpu_memory_fraction": "float?"}
        for item in fields(self):
            check(item.name, getattr(self, item.name), kinds.get(item.name, "int"))
