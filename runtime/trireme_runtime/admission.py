"""Which requests are let in. Knows no threads and no clock: every time is an argument, in s of time.monotonic().

A request that the engine can take at once is always let in. One that would wait is let in as long as few enough wait,
with few enough tokens, and as long as its turn can be expected soon enough.
"""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from .contract import Code, Refusal

#: The priorities that a request may have; the highest goes first.
LOWEST_PRIORITY, HIGHEST_PRIORITY = -10, 10
NUM_PRIORITIES = HIGHEST_PRIORITY - LOWEST_PRIORITY + 1

#: What may be told to a client as the time to come back after, in ms.
_RETRY_AFTER_MS = (50, 30_000)


@dataclass(frozen=True)
class QueueLimits:
    """What may wait for the engine.

    max_size: requests. max_tokens: prompt and max_tokens of all of them together. max_delay_ms: how long a request may
    be expected to wait.
    """

    max_size: int = 256
    max_tokens: int = 131_072
    max_delay_ms: int = 250


@dataclass(frozen=True)
class QueueState:
    """What waits now: requests that the engine has no room for yet.

    queued: how many, by priority, the lowest first. queued_tokens: of all of them. starts_per_s: how many go to the
    engine in a second.
    """

    queued: Sequence[int]
    queued_tokens: int
    starts_per_s: float


def refusal_of(limits: QueueLimits, state: QueueState, priority: int, tokens: int) -> Refusal | None:
    """Why a request of `tokens` (prompt and max_tokens, or the least that they can be) is not let in; None if it is.

    Where one with a lower priority waits, that one has to make room, and only the expected delay counts. The delay is
    the number of those ahead over the rate at which requests start (Little 1961).
    """
    queued = sum(state.queued)
    if not queued:
        return None
    level = priority - LOWEST_PRIORITY
    if not any(state.queued[:level]):
        if queued >= limits.max_size:
            excess = queued + 1 - limits.max_size
            return _busy(f"{queued} requests wait; at most {limits.max_size} may", excess, state)
        if state.queued_tokens + tokens > limits.max_tokens:
            message = (
                f"requests with {state.queued_tokens} tokens wait, and this one has {tokens}; "
                f"at most {limits.max_tokens} may"
            )
            return _busy(message, 1, state)
    ahead = sum(state.queued[level:])
    delay_ms = 1000 * ahead / state.starts_per_s
    if delay_ms > limits.max_delay_ms:
        message = f"the wait would be about {min(delay_ms, 1e9):.0f} ms; at most {limits.max_delay_ms} may be"
        return _busy(message, ahead - limits.max_delay_ms * state.starts_per_s / 1000, state)
    return None


def _busy(message: str, excess: float, state: QueueState) -> Refusal:
    """A refusal that sends the client away until `excess` requests have started, a little longer by chance.

    Those who are refused together should not come back together.
    """
    lowest, highest = _RETRY_AFTER_MS
    delay_ms = min(highest, max(lowest, 1000 * excess / state.starts_per_s))
    return Refusal(Code.RESOURCE_EXHAUSTED, f"the server is busy: {message}", round(delay_ms * random.uniform(1, 1.3)))


class StartRate:
    """How many requests go from the queue to the engine in a second; guess_per_s: as long as nothing is known."""

    #: How far back it looks.
    WINDOW_S = 4.0

    #: How long what was known before is better than what has been seen since something waits again.
    LEARNING_S = 1.0

    def __init__(self, guess_per_s: float) -> None:
        self._guess = guess_per_s
        self._starts: deque[float] = deque()
        self._since: float | None = None
        self._known: float | None = None

    def wait_begins(self, now: float) -> None:
        """Something waits now, where nothing did."""
        self._starts.clear()
        self._since = now

    def wait_ends(self, now: float) -> None:
        """Nothing waits any more."""
        if self._since is not None and now - self._since > self.LEARNING_S:
            self._known = self.per_second(now)
        self._since = None

    def started(self, now: float) -> None:
        """A request that had waited goes to the engine."""
        self._starts.append(now)

    def per_second(self, now: float) -> float:
        """The rate. Before the first start it is as if one came now."""
        waited_s = 0.0 if self._since is None else now - self._since
        if self._since is None or waited_s < (0.1 if self._known is None else self.LEARNING_S):
            return self._guess if self._known is None else self._known
        begin = max(self._since, now - self.WINDOW_S)
        while self._starts and self._starts[0] < begin:
            self._starts.popleft()
        return max(1, len(self._starts)) / (now - begin)
