"""Stop strings, matched on text across token boundaries."""

from collections.abc import Sequence
from dataclasses import dataclass

from .detokenizing import Detokenizer, held_length


@dataclass(frozen=True)
class StopHit:
    """A stop string that was found; `ids_used` counts the stream's ids up to the one that completed it."""

    stop: str
    ids_used: int


class StopMatcher:
    """Watches one stream: which of its ids may be sent, and when a stop string is complete.

    `stops` are non-empty strings. The earliest hit in the text wins; of several that begin there, the longest.
    """

    def __init__(self, stops: Sequence[str], detokenizer: Detokenizer) -> None:
        self._stops = tuple(stops)
        self._reach = max(map(len, stops))
        self._detokenizer = detokenizer
        self._ids: list[int] = []
        self._tail = ""
        #: (number of ids, number of characters decoded after them), oldest first, for the ids not yet released.
        self._ends: list[tuple[int, int]] = []
        self._characters = 0
        self.releasable = 0

    def feed(self, ids: Sequence[int]) -> StopHit | None:
        """Take further ids. Sets `releasable`, the number of the stream's ids whose text can be in no stop string."""
        for token in ids:
            start = self._detokenizer.window_start(self._ids, len(self._ids))
            text = self._detokenizer.delta(self._ids[start:], [token], final=False)
            self._ids.append(token)
            self._characters += len(text)
            self._tail += text
            hit = self._find()
            if hit is not None:
                return StopHit(hit, len(self._ids))
            self._ends.append((len(self._ids), self._characters))
            held = held_length(self._tail, self._stops)
            self._tail = self._tail[-self._reach :]
            while self._ends and self._ends[0][1] <= self._characters - held:
                self.releasable = self._ends.pop(0)[0]
        return None

    def _find(self) -> str | None:
        found = [(self._tail.find(stop), -len(stop), stop) for stop in self._stops if stop in self._tail]
        return min(found)[2] if found else None


def cut_at_stop(text: str, stop: str) -> str:
    """`text` up to where `stop` begins in it; all of it where it is not in there."""
    return text.partition(stop)[0] if stop else text
