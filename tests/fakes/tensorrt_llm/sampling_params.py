"""tensorrt_llm/sampling_params.py, SamplingParams: its fields, and what __post_init__ and _validate refuse."""

from dataclasses import dataclass, fields
from typing import Any

from ._checks import check

_KINDS = {
    **dict.fromkeys(("max_tokens", "n"), "int"),
    **dict.fromkeys(("end_id", "pad_id", "best_of", "top_k", "seed", "min_tokens", "logprobs"), "int?"),
    **dict.fromkeys(("top_p", "temperature", "repetition_penalty", "presence_penalty"), "float?"),
    **dict.fromkeys(("frequency_penalty", "length_penalty"), "float?"),
    **dict.fromkeys(("use_beam_search", "ignore_eos", "detokenize", "return_perf_metrics"), "bool"),
}


@dataclass(slots=True, kw_only=True)
class SamplingParams:
    """Fields that no adapter sets are left out, so that setting one fails."""

    end_id: int | None = None
    pad_id: int | None = None
    max_tokens: int = 32
    n: int = 1
    best_of: int | None = None
    use_beam_search: bool = False
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    temperature: float | None = None
    min_tokens: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    length_penalty: float | None = None
    logprobs: int | None = None
    return_perf_metrics: bool = False
    ignore_eos: bool = False
    detokenize: bool = True

    def __post_init__(self) -> None:
        for item in fields(self):
            check(item.name, getattr(self, item.name), _KINDS[item.name])
        self.best_of = self.best_of or self.n
        limits: dict[str, Any] = {"top_p": (0, 1), "top_k": (0, 2**31), "temperature": (0, float("inf"))}
        for name, (lowest, highest) in limits.items():
            value = getattr(self, name)
            if value is not None and not lowest <= value <= highest:
                raise ValueError(f"require {lowest} <= {name} <= {highest}, got {name}={value}")
        if self.best_of < self.n:
            raise ValueError(f"best_of ({self.best_of}) cannot be less than n ({self.n})")
