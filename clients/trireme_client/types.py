"""What the clients take and give."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict


class Message(TypedDict):
    """One turn of a chat; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Guide:
    """What the text of an answer must match. Made with one of the class methods."""

    kind: str
    text: str = ""

    @classmethod
    def json_object(cls) -> "Guide":
        """Any JSON object."""
        return cls("json")

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any]) -> "Guide":
        """JSON of this schema."""
        return cls("json_schema", json.dumps(schema, ensure_ascii=False))

    @classmethod
    def regex(cls, pattern: str) -> "Guide":
        """A text that this regular expression matches as a whole."""
        return cls("regex", pattern)

    @classmethod
    def grammar(cls, ebnf: str) -> "Guide":
        """A text of this EBNF grammar, whose first rule is called root."""
        return cls("ebnf_grammar", ebnf)

    @classmethod
    def choice(cls, choices: Sequence[str]) -> "Guide":
        """One of these texts."""
        return cls("choice", json.dumps(list(choices), ensure_ascii=False))


@dataclass(frozen=True)
class Metrics:
    """What a server tells about a request. Times in ns of the server's monotonic clock; blocks of its KV cache."""

    arrival_time_ns: int
    first_scheduled_time_ns: int
    first_token_time_ns: int
    last_token_time_ns: int
    num_reused_tokens: int
    kv_cache_reused_blocks: int
    kv_cache_alloc_new_blocks: int


@dataclass(frozen=True)
class _Text:
    """What pieces and whole answers have in common.

    finish_reason: stop, length, cancelled or error. stop_reason: the stop string that ended it. log_probs: natural
    logarithms, one for each token of the text, and cum_log_prob their sum over the sequence so far, where asked for;
    tokens: the bytes of each, as UTF-8 or a part of it.
    """

    text: str
    finish_reason: str | None
    stop_reason: str | None
    num_input_tokens: int
    num_output_tokens: int
    log_probs: tuple[float, ...] | None = None
    tokens: tuple[bytes, ...] | None = None
    cum_log_prob: float | None = None
    metrics: Metrics | None = None


@dataclass(frozen=True)
class Delta(_Text):
    """One piece of a stream; finish_reason is None until the last of its sequence. The counts are of all sequences.

    index: the sequence that it belongs to. metrics come with the very last piece.
    """

    index: int = 0


@dataclass(frozen=True)
class Answer:
    """One of several sequences."""

    text: str
    finish_reason: str | None
    stop_reason: str | None
    log_probs: tuple[float, ...] | None = None
    tokens: tuple[bytes, ...] | None = None
    cum_log_prob: float | None = None


@dataclass(frozen=True)
class Completion(_Text):
    """A whole answer, or what came of it so far: the first sequence, and in `answers` all of them."""

    answers: tuple[Answer, ...] = ()


@dataclass(frozen=True)
class Generation:
    """What to generate: either `prompt` or `messages`. None leaves a choice to the server.

    max_tokens: at least 1. temperature 0, or no sampling parameter at all, is greedy. seed: 0 to 2**64 - 1.
    end_id: the token id that ends the answer, -1 for none. stop: texts that end it, bad_words: texts that must not come
    up. n: how many sequences; beam_width above 1: the best n of a beam search. echo: repeat the prompt in front of the
    text. priority: -10 to 10, the highest goes first where requests wait; deadline_ms: after which it ends with
    DeadlineExceeded, wherever it is. session: what belongs together, for a balancer, which sends it where that
    session's KV cache is. tensors: further inputs of the contract by name, each a list of values.
    """

    prompt: str | None = None
    messages: list[Message] | None = None
    max_tokens: int = 256
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    end_id: int | None = None
    stop: tuple[str, ...] = ()
    echo: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    bad_words: tuple[str, ...] = ()
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    n: int | None = None
    beam_width: int | None = None
    length_penalty: float | None = None
    guide: Guide | None = None
    log_probs: bool | None = None
    metrics: bool | None = None
    priority: int | None = None
    deadline_ms: int | None = None
    session: str | None = None
    tensors: Mapping[str, Sequence[Any]] = field(default_factory=dict)
