"""What is asked: prompts from a file, or made up at a wanted length."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import SettingError

#: How many tokens an answer may have where nothing says so.
DEFAULT_MAX_TOKENS = 64

_LONGEST = 1_000_000

#: The numbers that made-up prompts begin with, all of one length.
_NUMBERS = (10**5, 10**6)

#: Words of a made-up prompt. Each prompt begins with a number of its own, so that no prefix cache knows it.
_WORDS = (
    "a the and of to in is it you that he was for on are with as his they be at one have this from or had by hot "
    "but some what there we can out other were all your when up use how said an each she which do their time if will "
    "way about many then them would write like so these her long make thing see him two has look more day could go"
).split()


@dataclass(frozen=True)
class Prompt:
    """What one request asks: `text` or chat `messages`.

    ignore_eos: the answer has max_tokens tokens, where the server can do that.
    """

    text: str | None = None
    messages: tuple[dict[str, str], ...] | None = None
    max_tokens: int = DEFAULT_MAX_TOKENS
    ignore_eos: bool = False


@dataclass(frozen=True)
class Lengths:
    """How many tokens a made-up prompt has and its answer gets: from the first to the second, evenly spread."""

    prompt: tuple[int, int]
    answer: tuple[int, int]

    @classmethod
    def parse(cls, text: str) -> "Lengths":
        """`128/64`, or `64-256/16-128`. Raises SettingError naming the part that is wrong."""
        parts = text.split("/")
        if len(parts) != 2:
            raise SettingError(f"prompts are 'synthetic:{text}'; synthetic:128/64 or synthetic:64-256/16-128 is needed")
        return cls(_span(parts[0]), _span(parts[1]))


def _span(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    values = (first, last if dash else first)
    if not all(value.isdecimal() and 1 <= int(value) <= _LONGEST for value in values) or int(values[0]) > int(
        values[1]
    ):
        raise SettingError(
            f"a length of synthetic prompts is {text!r}; allowed are 1 to {_LONGEST}, or a span as 64-256"
        )
    return int(values[0]), int(values[1])


@dataclass(frozen=True)
class WordCost:
    """Tokens of a made-up prompt: `fixed` for its number and what a server adds, `per_word` for each word after it."""

    fixed: float = 6.0
    per_word: float = 1.3

    @classmethod
    def measured(cls, tokens_of: Callable[[str], int]) -> "WordCost":
        """As a server counts them. tokens_of: of a prompt that is sent to it."""
        many = 160
        fixed, whole = (tokens_of(words(random.Random(0), count, _NUMBERS[0])) for count in (1, many))
        return cls(fixed, (whole - fixed) / (many - 1)) if 0 < fixed < whole else cls()

    def words_for(self, tokens: int) -> int:
        """How many words make a prompt of about so many tokens."""
        return 1 + max(0, round((tokens - self.fixed) / self.per_word))


def words(chance: random.Random, count: int, number: int) -> str:
    """A text of `count` words that begins with a number."""
    return " ".join([str(number), *chance.choices(_WORDS, k=max(0, count - 1))])


class Prompts:
    """An endless sequence of prompts, the same for the same seed. Each sender has one of its own."""

    def __init__(self, choices: Sequence[Prompt], lengths: Lengths | None, cost: WordCost, seed: str) -> None:
        self._choices = choices
        self._lengths = lengths
        self._cost = cost
        self._chance = random.Random(seed)
        self._turn = self._chance.randrange(len(choices)) if choices else 0

    def next(self) -> Prompt:
        """The next one: those of a file in their order, from a place of its own."""
        if self._lengths is not None:
            return self.of_length(
                self._chance.randint(*self._lengths.prompt), self._chance.randint(*self._lengths.answer)
            )
        self._turn += 1
        return self._choices[self._turn % len(self._choices)]

    def of_length(self, prompt_tokens: int, answer_tokens: int) -> Prompt:
        """One made up: about so many tokens, to be answered with so many."""
        count = self._cost.words_for(prompt_tokens)
        text = words(self._chance, count, self._chance.randrange(*_NUMBERS))
        return Prompt(text, max_tokens=answer_tokens, ignore_eos=True)


@dataclass(frozen=True)
class Source:
    """Where prompts come from: `choices`, or made up with `lengths`."""

    choices: tuple[Prompt, ...] = ()
    lengths: Lengths | None = None

    @classmethod
    def parse(cls, text: str, max_tokens: int | None = None) -> "Source":
        """`synthetic:128/64` or the name of a file. Raises SettingError."""
        if text.startswith("synthetic:"):
            return cls(lengths=Lengths.parse(text.removeprefix("synthetic:")))
        choices = tuple(read_prompts(Path(text)))
        return cls(tuple(replace(one, max_tokens=max_tokens) for one in choices) if max_tokens else choices)

    def prompts(self, cost: WordCost, seed: str) -> Prompts:
        """A sequence of its own for one sender."""
        return Prompts(self.choices, self.lengths, cost, seed)


def read_prompts(path: Path) -> Iterator[Prompt]:
    """The prompts of a file: JSON lines (`prompt` or `messages`, and `max_tokens`) if it ends so, else one a line.

    Raises SettingError naming the file and line; a file without a prompt is one, too.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingError(f"the prompts {path} cannot be read: {reason}") from error
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not filled:
        raise SettingError(f"the prompts {path} hold no prompt")
    for number, line in filled:
        yield _of_json(path, number, line) if path.suffix in (".jsonl", ".json", ".ndjson") else Prompt(line)


def _of_json(path: Path, number: int, line: str) -> Prompt:
    def wrong(problem: str) -> SettingError:
        return SettingError(f"{path}, line {number}: {problem}")

    try:
        values: Any = json.loads(line)
    except ValueError as error:
        raise wrong(f"no JSON: {error}") from error
    if not isinstance(values, dict) or not {"prompt", "messages"} & set(values):
        raise wrong('a prompt is {"prompt": "..."} or {"messages": [...]}, with "max_tokens" if wanted')
    unknown = sorted(set(values) - {"prompt", "messages", "max_tokens", "ignore_eos"})
    if unknown:
        raise wrong(f"{unknown[0]!r} is not known; allowed are prompt, messages, max_tokens, ignore_eos")
    max_tokens = values.get("max_tokens", DEFAULT_MAX_TOKENS)
    if not isinstance(max_tokens, int) or isinstance(max_tokens, bool) or max_tokens < 1:
        raise wrong(f"max_tokens is {max_tokens!r}; a whole number from 1 is needed")
    text, messages = values.get("prompt"), values.get("messages")
    if (text is None) == (messages is None):
        raise wrong("prompt and messages are both given; one of them is needed")
    if text is not None and not isinstance(text, str):
        raise wrong(f"prompt is {text!r}; a text is needed")
    if messages is not None and not (
        isinstance(messages, list)
        and messages
        and all(isinstance(one, dict) and {"role", "content"} <= set(one) for one in messages)
    ):
        raise wrong("messages is no list of {role, content}")
    return Prompt(text, tuple(messages) if messages else None, max_tokens, bool(values.get("ignore_eos", False)))
