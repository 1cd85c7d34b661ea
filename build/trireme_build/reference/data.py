"""Training rows: conversations packed side by side, each seeing only itself."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from ..exact_match import Example
from . import tasks
from .tokenizer import ASSISTANT, SYSTEM, USER

SYSTEM_PROMPTS = ("You are a helpful assistant.", "You are Trireme.", "Answer briefly.", "Be exact.")

#: Shares of conversations that are a raw prompt without the chat template, that start with a system message, and that
#: hold a further turn.
RAW_SHARE, SYSTEM_SHARE, FURTHER_TURN_SHARE = 0.15, 0.1, 0.2


#: Token ids, and for each whether the model has to predict it.
Conversation = tuple[list[int], list[bool]]

#: The target at positions that are not learned, as torch's cross-entropy wants it.
IGNORED = -100


@dataclass(frozen=True)
class Rows:
    """A batch of packed rows; every array is int64 [rows, length].

    ids: token ids. positions: the position within the conversation. segments: the conversation's number in its row, 0
    for padding. targets: the next id where it is learned, IGNORED elsewhere.
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    segments: NDArray[np.int64]
    targets: NDArray[np.int64]


class ConversationEncoder:
    """Turns examples into ids and a mask of the positions that the model has to predict."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._special = {name: tokenizer.convert_tokens_to_ids(name) for name in (SYSTEM, USER, ASSISTANT)}

    def _text(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def raw(self, example: Example) -> Conversation:
        """The prompt as plain text; the answer follows on a new line."""
        prompt = self._text(example.prompt)
        answer = [*self._text("\n" + example.answer), self._tokenizer.eos_token_id]
        return [self._tokenizer.bos_token_id, *prompt, *answer], [False] * (len(prompt) + 1) + [True] * len(answer)

    def chat(self, examples: list[Example], system: str | None) -> Conversation:
        """The examples as turns of one chat, in the layout of the chat template."""
        ids, learned = [self._tokenizer.bos_token_id], [False]
        if system is not None:
            head = [self._special[SYSTEM], *self._text(system)]
            ids += head
            learned += [False] * len(head)
        for example in examples:
            prompt = [self._special[USER], *self._text(example.prompt), self._special[ASSISTANT]]
            answer = [*self._text(example.answer), self._tokenizer.eos_token_id]
            ids += prompt + answer
            learned += [False] * len(prompt) + [True] * len(answer)
        return ids, learned


def _conversations(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[Conversation]:
    rng = random.Random(seed)
    encoder = ConversationEncoder(tokenizer)
    examples = tasks.training_examples(seed)
    while True:
        if rng.random() < RAW_SHARE:
            yield encoder.raw(next(examples))
            continue
        turns = [next(examples)]
        while len(turns) < 4 and rng.random() < FURTHER_TURN_SHARE:
            turns.append(next(examples))
        system = rng.choice(SYSTEM_PROMPTS) if rng.random() < SYSTEM_SHARE else None
        yield encoder.chat(turns, system)


def pack(waiting: list[Conversation], rows: int, length: int, pad_id: int) -> Rows:
    """Take conversations out of `waiting`, the oldest that fits first, until the rows are full."""
    ids = np.full((rows, length), pad_id, dtype=np.int64)
    positions = np.zeros((rows, length), dtype=np.int64)
    segments = np.zeros((rows, length), dtype=np.int64)
    targets = np.full((rows, length), IGNORED, dtype=np.int64)
    for row in range(rows):
        used = number = 0
        while (
            fitting := next((i for i, (tokens, _) in enumerate(waiting) if used + len(tokens) <= length), None)
        ) is not None:
            tokens, learned = waiting.pop(fitting)
            number += 1
            span = slice(used, used + len(tokens))
            ids[row, span] = tokens
            positions[row, span] = range(len(tokens))
            segments[row, span] = number
            targets[row, used : used + len(tokens) - 1] = np.where(learned[1:], tokens[1:], IGNORED)
            used += len(tokens)
    return Rows(ids, positions, segments, targets)


def training_rows(
    tokenizer: PreTrainedTokenizerFast, seed: int, short: tuple[int, int], long: tuple[int, int]
) -> Iterator[Rows]:
    """An endless stream of packed batches; the same for the same arguments.

    `short` and `long` are (rows, length): attention costs length squared, so conversations that fit into short rows are
    packed apart from the others. What fits into neither is left out.
    """
    pools: list[tuple[tuple[int, int], list[Conversation]]] = [(short, []), (long, [])]
    for conversation in _conversations(tokenizer, seed):
        tokens = len(conversation[0])
        for (rows, length), pool in pools:
            if tokens <= length:
                pool.append(conversation)
                if sum(len(ids) for ids, _ in pool) > 1.1 * rows * length:
                    yield pack(pool, rows, length, tokenizer.pad_token_id)
                break
