"""Stop strings, matched on text across token boundaries."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from .automaton import WordAutomaton
from .detokenizing import Detokenizer


@dataclass(frozen=True)
class StopHit:
    """A stop string that was found; `ids_used` counts the stream's ids up to the one that completed it."""

    stop: str
    ids_used: int


class StopMatcher:
    """Watches one sequence: which of its ids may be sent, and when a stop string is complete.

    The earliest hit in the text wins; of several that begin there, the longest.
    """

    def __init__(self, stops: WordAutomaton, detokenizer: Detokenizer) -> None:
        self._stops = stops
        self._state = 0
        self._detokenizer = detokenizer
        self._count = 0
        self._characters = 0
        self.releasable = 0
        #: (number of ids, how far the text is known after them), oldest first, for the ids not yet released; in bytes
        #: where ids add the same bytes anywhere, else in characters.
        self._ends: deque[tuple[int, int]] = deque()
        #: Where they do: how many bytes the known text has, and those of the last character while it is incomplete.
        self._known_bytes = 0
        self._bytes = b""
        self._fresh = True
        #: Else: all ids.
        self._ids: list[int] = []

    def feed(self, ids: Sequence[int]) -> StopHit | None:
        """Take further ids. Sets `releasable`, the number of the sequence's ids whose text can be in no stop string."""
        if self._detokenizer.is_context_free and self._run_over(ids):
            return None
        for token in ids:
            text = self._text_of(token)
            self._count += 1
            hit = self._find(text)
            if hit is not None:
                return StopHit(hit, self._count)
            if not self._detokenizer.is_context_free:
                self._ends.append((self._count, self._characters))
                self._release(self._characters - self._stops.depth(self._state))
        return None

    def _release(self, settled: int) -> None:
        while self._ends and self._ends[0][1] <= settled:
            self.releasable = self._ends.popleft()[0]

    def _run_over(self, ids: Sequence[int]) -> bool:
        """Take ids that complete no stop string; False, and nothing done, for others."""
        data = self._bytes + self._detokenizer.bytes_of(ids)
        text, used = self._detokenizer.text_of(data, False, is_first=self._fresh)
        if self._state == 0 and self._stops.is_passed_by(text):
            state: int | None = 0
        else:
            state = self._stops.run(self._state, text)
        if state is None:
            return False
        known = self._known_bytes + used
        if state:
            end = self._known_bytes + len(self._bytes)
            for count, token in enumerate(ids, self._count + 1):
                end += len(self._detokenizer.bytes_of((token,)))
                self._ends.append((count, min(end, known)))
            self._release(known - self._stops.depth_bytes(state))
        else:
            self._ends.clear()
            self.releasable = self._count + len(ids)
        self._state = state
        self._known_bytes, self._bytes = known, data[used:]
        self._fresh = self._fresh and not used
        self._characters += len(text)
        self._count += len(ids)
        return True

    def _text_of(self, token: int) -> str:
        if self._detokenizer.is_context_free:
            data = self._bytes + self._detokenizer.bytes_of((token,))
            text, used = self._detokenizer.text_of(data, False, is_first=self._fresh)
            self._fresh = self._fresh and not used
            self._bytes = data[used:]
            return text
        start = self._detokenizer.window_start(self._ids, len(self._ids))
        text = self._detokenizer.delta(self._ids[start:], [token], final=False)
        self._ids.append(token)
        return text

    def _find(self, text: str) -> str | None:
        """Go on over `text`; the stop string that became complete in it, if one did."""
        found: list[tuple[int, int, str]] = []
        for character in text:
            self._characters += 1
            self._state = self._stops.step(self._state, character)
            found += [(self._characters - len(stop), -len(stop), stop) for stop in self._stops.ending_at(self._state)]
        return min(found)[2] if found else None


def cut_at_stop(text: str, stop: str) -> str:
    """`text` up to where `stop` begins in it; all of it where it is not in there."""
    return text.partition(stop)[0] if stop else text
