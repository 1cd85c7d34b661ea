"""Searches a text for many words at once (Aho and Corasick 1975)."""

from collections import deque
from collections.abc import Iterator, Sequence


class WordAutomaton:
    """An automaton over characters; state 0 is the start. `words` are non-empty.

    The depth of a state is the length of the longest end of the text so far with which a word begins.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._children: list[dict[str, int]] = [{}]
        self._depths = [0]
        self._depths_bytes = [0]
        self._words: list[str | None] = [None]
        for word in words:
            self._add(word)
        self._fallbacks = [0] * len(self._children)
        #: The next state on the way of fallbacks that completes a word.
        self._next_words = [0] * len(self._children)
        self._link()
        self._completes = [
            word is not None or bool(following) for word, following in zip(self._words, self._next_words, strict=True)
        ]

    def _add(self, word: str) -> None:
        state = 0
        for character in word:
            if character not in self._children[state]:
                self._children[state][character] = len(self._children)
                self._children.append({})
                self._depths.append(self._depths[state] + 1)
                self._depths_bytes.append(self._depths_bytes[state] + len(character.encode("utf-8", "surrogatepass")))
                self._words.append(None)
            state = self._children[state][character]
        self._words[state] = word

    def _link(self) -> None:
        waiting = deque(self._children[0].values())
        while waiting:
            state = waiting.popleft()
            below = self._fallbacks[state]
            self._next_words[state] = below if self._words[below] is not None else self._next_words[below]
            for character, child in self._children[state].items():
                self._fallbacks[child] = self.step(self._fallbacks[state], character)
                waiting.append(child)

    def __len__(self) -> int:
        """How many states there are."""
        return len(self._children)

    def depth(self, state: int) -> int:
        """How many of the last characters begin a word."""
        return self._depths[state]

    def depth_bytes(self, state: int) -> int:
        """How many bytes of UTF-8 the last characters are that begin a word."""
        return self._depths_bytes[state]

    def run(self, state: int, text: str) -> int | None:
        """The state after all of `text`; None if a word is completed in it."""
        children, fallbacks, completes = self._children, self._fallbacks, self._completes
        for character in text:
            target = children[state].get(character)
            while target is None and state:
                state = fallbacks[state]
                target = children[state].get(character)
            state = target or 0
            if completes[state]:
                return None
        return state

    def step(self, state: int, character: str) -> int:
        """The state after one more character."""
        while state and character not in self._children[state]:
            state = self._fallbacks[state]
        return self._children[state].get(character, 0)

    def is_passed_by(self, text: str) -> bool:
        """Whether `text` leaves the start where it is: no word begins in it."""
        return self._children[0].keys().isdisjoint(text)

    def ending_at(self, state: int) -> Iterator[str]:
        """The words that are complete here, longest first."""
        if self._words[state] is None:
            state = self._next_words[state]
        while state:
            word = self._words[state]
            assert word is not None
            yield word
            state = self._next_words[state]

    def steps(self, state: int) -> Iterator[tuple[str, int]]:
        """All characters that do not lead to the start, and where they lead."""
        seen: set[str] = set()
        while True:
            for character, target in self._children[state].items():
                if character not in seen:
                    seen.add(character)
                    yield character, target
            if state == 0:
                return
            state = self._fallbacks[state]
