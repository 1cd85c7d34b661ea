"""Smoke sets: questions with known answers that a release is asked before any user is.

A set is a file of JSON lines, each with `prompt` or `messages`, `expect`, and where they differ from the default
`match` (exact, prefix, contains, regex: the whole answer must match it) and `max_tokens`. What is asked is greedy.
"""

import asyncio
import json
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trireme_client import AsyncClient, Generation, Message, TriremeError

from ..errors import OperatorError
from ..layout import Layout
from .release import folder_of

MATCHES = ("exact", "prefix", "contains", "regex")

_KEYS = ("prompt", "messages", "expect", "match", "max_tokens")


@dataclass(frozen=True)
class SmokeItem:
    """One question and its answer. One of prompt and messages; messages: pairs of role and content.

    Raises OperatorError, naming the key, for what cannot be asked.
    """

    expect: str
    prompt: str | None = None
    messages: tuple[tuple[str, str], ...] | None = None
    match: str = "exact"
    max_tokens: int = 64

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.messages is None):
            raise OperatorError(
                f"{'neither' if self.prompt is None else 'both'} of prompt and messages given; one is needed"
            )
        for key in ("prompt", "expect"):
            value = getattr(self, key)
            if not isinstance(value, str | None) or value == "":
                raise OperatorError(f"{key} is {value!r}; a text is needed")
        if self.match not in MATCHES:
            raise OperatorError(f"match is {self.match!r}; known are {', '.join(MATCHES)}")
        if self.match == "regex":
            try:
                re.compile(self.expect)
            except re.error as error:
                raise OperatorError(f"expect is {self.expect!r}, which is no regular expression: {error}") from None
        if isinstance(self.max_tokens, bool) or not isinstance(self.max_tokens, int) or self.max_tokens < 1:
            raise OperatorError(f"max_tokens is {self.max_tokens!r}; an integer of 1 or more is needed")

    @classmethod
    def from_json(cls, values: Any) -> "SmokeItem":
        """From what JSON holds. Raises OperatorError naming the key."""
        if not isinstance(values, dict):
            raise OperatorError(f"{values!r} is no object")
        for key in values:
            if key not in _KEYS:
                raise OperatorError(f"the key {key} is unknown; known are {', '.join(_KEYS)}")
        if not isinstance(values.get("expect"), str):
            raise OperatorError(
                "expect is missing" if "expect" not in values else f"expect is {values['expect']!r}; a text is needed"
            )
        messages = values.get("messages")
        return cls(**{**values, "messages": None if messages is None else _pairs(messages)})

    def to_json(self) -> dict[str, Any]:
        """As JSON has it; `from_json` takes it back."""
        values: dict[str, Any] = {"prompt": self.prompt} if self.messages is None else {"messages": self._messages()}
        return {**values, "expect": self.expect, "match": self.match, "max_tokens": self.max_tokens}

    def _messages(self) -> list[Message]:
        return [Message(role=role, content=content) for role, content in self.messages or ()]

    def generation(self, max_tokens: int | None = None) -> Generation:
        """What is asked, greedy; max_tokens: instead of the item's."""
        # Said, and not left to the server: a release may set another default.
        return Generation(
            prompt=self.prompt,
            messages=None if self.messages is None else self._messages(),
            max_tokens=max_tokens or self.max_tokens,
            temperature=0.0,
        )

    def is_right(self, answer: str) -> bool:
        """Whether an answer is as expected."""
        if self.match == "prefix":
            return answer.startswith(self.expect)
        if self.match == "contains":
            return self.expect in answer
        if self.match == "regex":
            return re.fullmatch(self.expect, answer, re.DOTALL) is not None
        return answer == self.expect

    def __str__(self) -> str:
        return repr(self.prompt if self.messages is None else self.messages[-1][1])


def _pairs(messages: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(messages, list) or not messages:
        raise OperatorError(f"messages is {messages!r}; a list of messages is needed")
    for message in messages:
        texts = list(message.values()) if isinstance(message, dict) else []
        if not texts or set(message) != {"role", "content"} or not all(isinstance(text, str) for text in texts):
            raise OperatorError(f"messages holds {message!r}; a message has the texts role and content")
    return tuple((message["role"], message["content"]) for message in messages)


def read_smoke(path: Path) -> list[SmokeItem]:
    """The items of a file; empty lines are none. Raises OperatorError naming the file, the line and the key."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    items = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            items.append(SmokeItem.from_json(json.loads(line)))
        except json.JSONDecodeError as error:
            raise OperatorError(f"{path}: line {number} is no JSON: {error}") from None
        except OperatorError as error:
            raise OperatorError(f"{path}: line {number}: {error}") from None
    if not items:
        raise OperatorError(f"{path} holds no items")
    return items


def default_smoke(layout: Layout, llm: str) -> tuple[dict[str, Any], ...]:
    """The set that a checkout has for an LLM, releases/smoke/LLM.jsonl, as JSON holds it; empty where it has none."""
    path = folder_of(layout) / "smoke" / f"{llm}.jsonl"
    return tuple(item.to_json() for item in read_smoke(path)) if path.is_file() else ()


@dataclass(frozen=True)
class WrongAnswer:
    """An item that was not answered as expected. answer: None where an error came instead."""

    item: SmokeItem
    answer: str | None
    error: str | None = None

    def __str__(self) -> str:
        came = f"the error {self.error}" if self.answer is None else repr(self.answer)
        wanted = "" if self.item.match == "exact" else f"{self.item.match} "
        return f"{self.item}: {came} instead of {wanted}{self.item.expect!r}"


@dataclass(frozen=True)
class SmokeResult:
    """How a set was answered. ttft_s: of every answer that began, in the order of the items."""

    asked: int
    wrong: tuple[WrongAnswer, ...]
    ttft_s: tuple[float, ...]

    @property
    def right(self) -> int:
        """How many were answered as expected."""
        return self.asked - len(self.wrong)

    @property
    def score(self) -> float:
        """Their share, 0 to 1."""
        return self.right / self.asked

    @property
    def errors(self) -> tuple[WrongAnswer, ...]:
        """Those that got an error instead of an answer."""
        return tuple(wrong for wrong in self.wrong if wrong.answer is None)


@dataclass(frozen=True)
class _Asked:
    """text: None where an error came. ttft_s: None where not even a first piece came."""

    text: str | None
    error: str | None
    ttft_s: float | None


async def _ask(client: AsyncClient, generation: Generation) -> _Asked:
    began, ttft_s = time.perf_counter(), None
    try:
        async with client.stream(generation) as stream:
            async for _ in stream:
                if ttft_s is None:
                    ttft_s = time.perf_counter() - began
            completion = stream.completion
        if completion.finish_reason in (None, "error", "cancelled"):
            return _Asked(None, f"the answer broke off ({completion.finish_reason})", ttft_s)
        return _Asked(completion.text, None, ttft_s)
    except TriremeError as error:
        return _Asked(None, f"{type(error).__name__}: {error}", ttft_s)


def run_smoke(
    address: str, model: str, items: Sequence[SmokeItem], timeout_s: float = 30.0, concurrency: int = 4
) -> SmokeResult:
    """Ask everything once, as streams of `model` (such as ensemble@r7), `concurrency` at a time.

    address: HOST:PORT of gRPC. timeout_s: of each answer. An error is a wrong answer, and none is raised for it.
    """
    if not items:
        raise ValueError("there are no items to ask")

    async def ask_all() -> list[_Asked]:
        at_once = asyncio.Semaphore(concurrency)
        async with AsyncClient(address, model, timeout_s=timeout_s) as client:

            async def one(item: SmokeItem) -> _Asked:
                async with at_once:
                    return await _ask(client, item.generation())

            return list(await asyncio.gather(*(one(item) for item in items)))

    answers = asyncio.run(ask_all())
    wrong = tuple(
        WrongAnswer(item, answer.text, answer.error)
        for item, answer in zip(items, answers, strict=True)
        if answer.text is None or not item.is_right(answer.text)
    )
    return SmokeResult(len(items), wrong, tuple(a.ttft_s for a in answers if a.ttft_s is not None))


def warm_up(
    address: str,
    model: str,
    items: Sequence[SmokeItem],
    concurrency: int = 8,
    rounds: int = 2,
    timeout_s: float = 30.0,
) -> SmokeResult:
    """Ask everything `rounds` times, so that users do not wait for what is made at the first use."""
    return run_smoke(address, model, list(items) * rounds, timeout_s, concurrency)


async def first_token_s(client: AsyncClient, item: SmokeItem) -> float:
    """Time to the first token of one answer. Raises OperatorError where none comes."""
    asked = await _ask(client, item.generation(max_tokens=1))
    if asked.error is not None or asked.ttft_s is None:
        raise OperatorError(f"{item} was not answered: {asked.error or 'nothing came'}")
    return asked.ttft_s


def ttft_in_turn(
    address: str, models: tuple[str, str], items: Iterable[SmokeItem], timeout_s: float = 30.0
) -> tuple[list[float], list[float]]:
    """Time to first token of each item from both models, one request at a time; who goes first alternates.

    Raises OperatorError naming the model that gives no answer.
    """

    async def measure() -> tuple[list[float], list[float]]:
        times: tuple[list[float], list[float]] = ([], [])
        async with AsyncClient(address, models[0], timeout_s) as one, AsyncClient(address, models[1], timeout_s) as two:
            clients = (one, two)
            for number, item in enumerate(items):
                for side in (0, 1) if number % 2 == 0 else (1, 0):
                    try:
                        times[side].append(await first_token_s(clients[side], item))
                    except OperatorError as error:
                        raise OperatorError(f"{models[side]}: {error}") from None
        return times

    return asyncio.run(measure())
