"""Answers in the words of OpenAI's API, as JSON texts.

A streamed answer is many small objects that differ in a text: what they have in common is written once.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any

from trireme_client import Answer, Delta

#: The log-probability that stands for none, as JSON has no infinity.
_LOWEST = -9999.0

#: Why it ended, in OpenAI's words.
_REASONS = {"stop": "stop", "length": "length"}

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Usage:
    """Tokens of all prompts, and of all answers to them."""

    prompt: int
    answer: int

    @property
    def json(self) -> str:
        """The object."""
        return (
            f'{{"prompt_tokens":{self.prompt},"completion_tokens":{self.answer},'
            f'"total_tokens":{self.prompt + self.answer}}}'
        )


@dataclass(frozen=True)
class Heading:
    """What every object of an answer begins with. created: s since the epoch. release: what answered."""

    id: str
    created: int
    model: str
    release: str

    def of(self, kind: str) -> str:
        """The beginning of an object."""
        return (
            f'{{"id":"{self.id}","object":"{kind}","created":{self.created},"model":{encode_basestring(self.model)},'
            f'"system_fingerprint":{encode_basestring(self.release)},'
        )


class Wording:
    """One of the two endpoints. heading: of the answer; log_probs and usage: whether those are wanted."""

    def __init__(self, heading: Heading, log_probs: bool, include_usage: bool) -> None:
        self._log_probs = log_probs
        self._chunk = "data: " + heading.of(self.chunk_kind) + '"choices":['
        self._end = '],"usage":null}\n\n' if include_usage else "]}\n\n"
        self._whole = heading.of(self.kind) + '"choices":['
        self._offsets: dict[int, int] = {}

    kind = ""
    chunk_kind = ""

    def opening(self, _index: int) -> str:
        """What comes before the first text of a choice."""
        return ""

    def event(self, index: int, delta: Delta) -> str:
        """One piece of a choice as an event."""
        raise NotImplementedError

    def choice(self, index: int, answer: Answer) -> str:
        """A whole choice."""
        raise NotImplementedError

    def usage_event(self, usage: Usage) -> str:
        """The last event, with the counts."""
        return f'{self._chunk}],"usage":{usage.json}}}\n\n'

    def whole(self, answers: Sequence[tuple[int, Answer]], usage: Usage) -> bytes:
        """The whole answer as one object."""
        choices = ",".join(self.choice(index, answer) for index, answer in answers)
        return f'{self._whole}{choices}],"usage":{usage.json}}}'.encode()


class ChatWording(Wording):
    """/v1/chat/completions."""

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def opening(self, index: int) -> str:
        """Who speaks."""
        delta = '"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null'
        return f'{self._chunk}{{"index":{index},{delta}}}{self._end}'

    def event(self, index: int, delta: Delta) -> str:
        """A text, and an event of its own for the end."""
        events = ""
        if delta.text or (self._log_probs and delta.tokens):
            log_probs = _chat_log_probs(delta.tokens, delta.log_probs) if self._log_probs else "null"
            events = (
                f'{self._chunk}{{"index":{index},"delta":{{"content":{encode_basestring(delta.text)}}},"logprobs":{log_probs},'
                f'"finish_reason":null}}{self._end}'
            )
        if delta.finish_reason is not None:
            events += (
                f'{self._chunk}{{"index":{index},"delta":{{}},"logprobs":null,'
                f'"finish_reason":"{reason_of(delta.finish_reason)}"}}{self._end}'
            )
        return events

    def choice(self, index: int, answer: Answer) -> str:
        """See Wording."""
        log_probs = _chat_log_probs(answer.tokens, answer.log_probs) if self._log_probs else "null"
        return (
            f'{{"index":{index},"message":{{"role":"assistant","content":{encode_basestring(answer.text)},"refusal":null}},'
            f'"logprobs":{log_probs},"finish_reason":"{reason_of(answer.finish_reason)}"}}'
        )


class CompletionWording(Wording):
    """/v1/completions."""

    kind = "text_completion"
    chunk_kind = "text_completion"

    def event(self, index: int, delta: Delta) -> str:
        """See Wording."""
        reason = "null" if delta.finish_reason is None else f'"{reason_of(delta.finish_reason)}"'
        return (
            f'{self._chunk}{{"index":{index},"text":{encode_basestring(delta.text)},'
            f'"logprobs":{self._completion_log_probs(index, delta)},"finish_reason":{reason}}}{self._end}'
        )

    def choice(self, index: int, answer: Answer) -> str:
        """See Wording."""
        log_probs = self._completion_log_probs(index, answer)
        return (
            f'{{"index":{index},"text":{encode_basestring(answer.text)},"logprobs":{log_probs},'
            f'"finish_reason":"{reason_of(answer.finish_reason)}"}}'
        )

    def _completion_log_probs(self, index: int, piece: Delta | Answer) -> str:
        if not self._log_probs:
            return "null"
        offset = self._offsets.get(index, 0)
        texts, offsets = [], []
        for token in piece.tokens or ():
            text = token.decode("utf-8", "replace")
            texts.append(text)
            offsets.append(offset)
            offset += len(text)
        self._offsets[index] = offset
        log_probs = [max(value, _LOWEST) for value in piece.log_probs or ()]
        value = {"tokens": texts, "token_logprobs": log_probs, "top_logprobs": None, "text_offset": offsets}
        return json.dumps(value)


def reason_of(finish_reason: str | None) -> str:
    """Why an answer ended, in OpenAI's words."""
    return _REASONS.get(finish_reason or "", "stop")


def _chat_log_probs(tokens: Sequence[bytes] | None, log_probs: Sequence[float] | None) -> str:
    content: list[dict[str, Any]] = [
        {
            "token": token.decode("utf-8", "replace"),
            "logprob": max(value, _LOWEST) if not math.isnan(value) else _LOWEST,
            "bytes": list(token),
            "top_logprobs": [],
        }
        for token, value in zip(tokens or (), log_probs or (), strict=True)
    ]
    return json.dumps({"content": content, "refusal": None})
