"""What the clients take and give."""

from dataclasses import dataclass
from typing import Any, TypedDict


class Message(TypedDict):
    """One turn of a chat; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class _Answer:
    """What pieces and whole answers have in common.

    finish_reason: stop, length, cancelled or error. stop_reason: the stop string that ended it. The counts are of the
    whole answer so far.
    """

    text: str
    finish_reason: str | None
    stop_reason: str | None
    num_input_tokens: int
    num_output_tokens: int


@dataclass(frozen=True)
class Delta(_Answer):
    """One piece of a stream; finish_reason is None until the last."""


@dataclass(frozen=True)
class Completion(_Answer):
    """A whole answer, or what came of it so far."""


@dataclass(frozen=True)
class Generation:
    """What to generate: either `prompt` or `messages`. None leaves a choice to the server.

    max_tokens: at least 1. temperature 0, or no sampling parameter at all, is greedy. seed: 0 to 2**64 - 1.
    end_id: the token id that ends the answer, -1 for none. echo: repeat the prompt in front of the text.
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
