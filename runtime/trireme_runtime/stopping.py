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
        #: Where ids add the same bytes anywhere: those of the last character, as long as it is not complete.
        self._bytes = b""
        self._fresh = True
        #: Else: all ids.
        self._ids: list[int] = []
        #: (number of ids, number of characters decoded after them), oldest first, for the ids not yet released.
        self._ends: deque[tuple[int, int]] = deque()
        self._characters = 0
        self.releasable = 0

    def feed(self, ids: Sequence[int]) -> StopHit | None:
        """Take further ids. Sets `releasable`, the number of the sequence's ids whose text can be in no stop string."""
        if self._state == 0 and self._detokenizer.is_context_free and self._pass_over(ids):
            return None
        for token in ids:
            text = self._text_of(token)
            self._count += 1
            hit = self._find(text)
            if hit is not None:
                return StopHit(hit, self._count)
            self._ends.append((self._count, self._characters))
            settled = self._characters - self._stops.depth(self._state)
            while self._ends and self._ends[0][1] <= settled:
                self.releasable = self._ends.popleft()[0]
        return None

    def _pass_over(self, ids: Sequence[int]) -> bool:
        """Take ids in whose text no stop string begins; False, and nothing done, for others."""
        data = self._bytes + self._detokenizer.bytes_of(ids)
        text, used = self._detokenizer.text_of(data, False, is_first=self._fresh)
        if not self._stops.is_passed_by(text):
            return False
        self._fresh = self._fresh and not used
        self._bytes = data[used:]
        self._characters += len(text)
        self._count += len(ids)
        self.releasable = self._count
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
