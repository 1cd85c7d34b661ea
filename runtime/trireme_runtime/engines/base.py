"""The interface between the model `tensorrt_llm` and an inference engine.

An engine knows nothing about text: token ids in, token ids out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from trireme_runtime.contract import FinishReason, Refusal, invalid


@dataclass(frozen=True)
class EngineSettings:
    """How much an engine may take on.

    max_num_seqs: sequences in flight. max_num_tokens: tokens computed in one step. kv_cache_tokens: capacity of the
    paged KV cache. reuse_kv_blocks: whether requests share the cached blocks of equal prefixes.
    """

    max_num_seqs: int = 64
    max_num_tokens: int = 512
    kv_cache_tokens: int = 32_768
    reuse_kv_blocks: bool = True


@dataclass(frozen=True)
class EngineLimits:
    """What one request may ask of the loaded model."""

    vocab_size: int
    max_context_tokens: int
    kv_cache_tokens: int


@dataclass(frozen=True)
class Sampling:
    """How the next id is chosen.

    temperature 0 is greedy; top_k 0 and top_p 1 take all ids in; seed None draws one. Penalties as in OpenAI's API and
    (repetition) Keskar et al. 2019; neutral values leave the logits alone.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_tokens: int = 0


@dataclass(frozen=True)
class EngineRequest:
    """One sequence to generate. `key` is unique among all requests of an engine, `end_id` None never ends early."""

    key: int
    input_ids: tuple[int, ...]
    max_new_tokens: int
    end_id: int | None
    sampling: Sampling = Sampling()


@dataclass(frozen=True)
class EngineEvent:
    """News of one request: further ids, the end id left out; at its end a finish reason, or an error."""

    key: int
    ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    error: Refusal | None = None

    @property
    def is_last(self) -> bool:
        """Whether nothing follows for this key."""
        return self.finish_reason is not None or self.error is not None


class EngineDied(RuntimeError):
    """The engine is gone; every request that it had is lost."""


class Engine(Protocol):
    """What an adapter offers. `submit` and `cancel` return at once and may be called from any thread."""

    name: str
    limits: EngineLimits
    #: Input tensors of the contract, beyond ids, lengths and streaming, that this engine can honour.
    honours: frozenset[str]

    def submit(self, request: EngineRequest) -> None:
        """Queue a request. Raises what `check_request` raises, ValueError for a key in use, and EngineDied."""

    def cancel(self, key: int) -> None:
        """End a request early; its last event then has the reason `cancelled`. Unknown keys are ignored."""

    def events(self) -> Iterator[list[EngineEvent]]:
        """Batches of events, until `close`; for one reader. Raises EngineDied."""

    def close(self) -> None:
        """Stop the engine and free what it holds."""


def check_request(request: EngineRequest, limits: EngineLimits) -> None:
    """Raise Refusal (INVALID_ARGUMENT) for a request that the engine would answer with garbage, or choke on."""
    length = len(request.input_ids)
    if length == 0:
        raise invalid("input_ids: the prompt is empty; at least 1 token is needed")
    lowest, highest = min(request.input_ids), max(request.input_ids)
    if lowest < 0 or highest >= limits.vocab_size:
        bad = lowest if lowest < 0 else highest
        raise invalid(f"input_ids: token id {bad} is outside the vocabulary, 0 to {limits.vocab_size - 1}")
    if request.max_new_tokens < 1:
        raise invalid(f"max_tokens is {request.max_new_tokens}; at least 1 is needed")
    if length + request.max_new_tokens > limits.max_context_tokens:
        raise invalid(
            f"the prompt has {length} tokens and asks for {request.max_new_tokens} more; "
            f"the model's context is {limits.max_context_tokens} tokens"
        )
    if length + request.max_new_tokens - 1 > limits.kv_cache_tokens:
        raise invalid(
            f"the prompt has {length} tokens and asks for {request.max_new_tokens} more; "
            f"the KV cache holds {limits.kv_cache_tokens} tokens"
        )
    if request.end_id is not None and not 0 <= request.end_id < limits.vocab_size:
        raise invalid(f"end_id is {request.end_id}; it must be within the vocabulary, 0 to {limits.vocab_size - 1}")
