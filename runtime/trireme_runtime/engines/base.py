"""The interface between the model `tensorrt_llm` and an inference engine.

An engine knows nothing about text: token ids in, token ids out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from trireme_runtime.contract import FinishReason, Refusal, invalid


@dataclass(frozen=True)
class EngineSettings:
    """How much an engine may take on.

    max_num_seqs: sequences in flight. max_num_tokens: tokens computed in one step. kv_cache_tokens: capacity of the
    paged KV cache. reuse_kv_blocks: whether requests share the cached blocks of equal prefixes. hang_timeout_s: how
    long an engine that has work may show no progress.
    """

    max_num_seqs: int = 64
    max_num_tokens: int = 512
    kv_cache_tokens: int = 32_768
    reuse_kv_blocks: bool = True
    hang_timeout_s: float = 10.0


@dataclass(frozen=True)
class EngineLimits:
    """What one request may ask of the loaded model, and of how many blocks its paged KV cache is made."""

    vocab_size: int
    max_context_tokens: int
    kv_cache_tokens: int
    max_num_seqs: int
    kv_block_tokens: int = 32

    @property
    def kv_blocks(self) -> int:
        """How many blocks there are."""
        return self.kv_cache_tokens // self.kv_block_tokens

    def blocks_for(self, tokens: int) -> int:
        """How many blocks hold `tokens`."""
        return -(-tokens // self.kv_block_tokens)


@dataclass(frozen=True)
class Sampling:
    """How the next id is chosen.

    temperature 0 is greedy; top_k 0 and top_p 1 take all ids in; seed None draws one. Penalties as in OpenAI's API and
    (repetition) Keskar et al. 2019; neutral values leave the logits alone. beam_width above 1 is beam search, in which
    a sequence's score is its log-probability divided by its length to the power of length_penalty.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_tokens: int = 0
    beam_width: int = 1
    length_penalty: float = 1.0


class GuideKind(str, Enum):
    """What a guide is written in."""

    JSON = "json"
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    GRAMMAR = "ebnf_grammar"
    CHOICE = "choice"


@dataclass(frozen=True)
class Guide:
    """What the text of an answer must match. `text` is the schema, the pattern, the EBNF, or a JSON list of choices."""

    kind: GuideKind
    text: str = ""


@dataclass(frozen=True)
class EngineRequest:
    """One prompt to continue. `key` is unique among all requests of an engine, `end_id` None never ends early.

    bad_strings: texts that must not come up in the answer. num_beams_returned: how many of the beams are wanted.
    reports: whether times and cache come with every event, and not with the last one only.
    """

    key: int
    input_ids: tuple[int, ...]
    max_new_tokens: int
    end_id: int | None
    sampling: Sampling = Sampling()
    guide: Guide | None = None
    bad_strings: tuple[str, ...] = ()
    log_probs: bool = False
    num_beams_returned: int = 1
    reports: bool = False


@dataclass(frozen=True)
class EngineTimes:
    """When an engine worked on a request, in ns of time.monotonic_ns()."""

    first_scheduled_ns: int
    first_token_ns: int
    last_token_ns: int


@dataclass(frozen=True)
class CacheUse:
    """What a request took from the paged KV cache: prompt tokens found in it, and blocks found, new, and in all."""

    reused_tokens: int = 0
    reused_blocks: int = 0
    new_blocks: int = 0

    @property
    def total_blocks(self) -> int:
        """Blocks that the request held, found or new."""
        return self.reused_blocks + self.new_blocks


@dataclass(frozen=True)
class Beam:
    """One finished sequence of a beam search, the end id left out; log_probs as long as ids."""

    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    finish_reason: FinishReason


@dataclass(frozen=True)
class EngineEvent:
    """News of one request: further ids, the end id left out; at its end a finish reason, or an error.

    log_probs: natural logarithms, as long as ids, where the request asked for them. beams: of a beam search, which has
    one event at its end, best first. times and cache, so far, come with the finish reason or where reports are wanted.
    """

    key: int
    ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    error: Refusal | None = None
    log_probs: tuple[float, ...] = ()
    beams: tuple[Beam, ...] = ()
    times: EngineTimes | None = None
    cache: CacheUse | None = None

    @property
    def is_last(self) -> bool:
        """Whether nothing follows for this key."""
        return self.finish_reason is not None or self.error is not None

    @property
    def is_plain(self) -> bool:
        """Whether it holds nothing but ids."""
        return not (self.is_last or self.log_probs or self.beams or self.times or self.cache)


@dataclass(frozen=True)
class EngineStep:
    """What one step of an engine brought.

    keys and ids, of equal length: one new id each for the requests of which there is nothing else to say. events: the
    news of the others. kv_blocks_used: blocks of the paged KV cache that requests hold after it.
    """

    keys: Sequence[int] = ()
    ids: Sequence[int] = ()
    events: Sequence[EngineEvent] = ()
    kv_blocks_used: int = 0

    @property
    def num_ids(self) -> int:
        """How many ids it brought in all."""
        return len(self.ids) + sum(len(event.ids) + sum(len(beam.ids) for beam in event.beams) for event in self.events)

    def all_events(self) -> Iterator[EngineEvent]:
        """The whole of it as events."""
        yield from (EngineEvent(key, (token,)) for key, token in zip(self.keys, self.ids, strict=True))
        yield from self.events


#: What a beam may leave unused of the blocks that it does not share, in tokens.
KV_BLOCK_ROUNDING = 64


class EngineDied(RuntimeError):
    """The engine is gone; every request that it had is lost.

    cause: `ended` by itself or by a signal, `hung` (work, but no progress), or `failed` to start.
    """

    def __init__(self, message: str, cause: str = "ended") -> None:
        super().__init__(message, cause)
        self.message = message
        self.cause = cause

    def __str__(self) -> str:
        return self.message


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

    def steps(self) -> Iterator[EngineStep]:
        """What each step brings, until `close`; for one reader. Raises EngineDied."""

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
    beams = request.sampling.beam_width
    if length + beams * (request.max_new_tokens + KV_BLOCK_ROUNDING * (beams > 1)) - 1 > limits.kv_cache_tokens:
        each = f" in each of {beams} beams" if beams > 1 else ""
        raise invalid(
            f"the prompt has {length} tokens and asks for {request.max_new_tokens} more{each}; "
            f"the KV cache holds {limits.kv_cache_tokens} tokens"
        )
    if request.end_id is not None and not 0 <= request.end_id < limits.vocab_size:
        raise invalid(f"end_id is {request.end_id}; it must be within the vocabulary, 0 to {limits.vocab_size - 1}")
