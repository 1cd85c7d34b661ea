"""Asks each endpoint in a thread of its own, so that one that hangs holds up nobody: not the others, not the screen."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..releases.watch import Sample
from .rates import MODEL, Growth, Reading, Series
from .scrape import Locked, NoAnswer

T = TypeVar("T")

#: How long an answer may take.
TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Seen(Generic[T]):
    """What is known of an endpoint. value: the last answer; problem: why the last question had none, "" if it had.

    silent_s: since the last answer, or since it was first asked; locked: it answers only to those with a key.
    """

    value: T | None
    problem: str
    silent_s: float
    locked: bool
    asked: int

    @property
    def answers(self) -> bool:
        """Whether the last question was answered."""
        return bool(self.asked) and not self.problem


class Source(Generic[T]):
    """Asks again and again, in a daemon thread. ask: raises NoAnswer."""

    def __init__(self, ask: Callable[[], T], every_s: float) -> None:
        self._ask, self._every_s = ask, every_s
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._value: T | None = None
        self._problem = ""
        self._locked = False
        self._asked = 0
        self._answered_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="top", daemon=True)

    def start(self) -> None:
        """Ask from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more. An answer that is awaited is not waited for."""
        self._ended.set()

    @property
    def seen(self) -> Seen[T]:
        """What is known now."""
        with self._lock:
            silent_s = time.monotonic() - self._answered_at
            problem = self._problem
            # A question may still be under way: who sends a header a second is never late for the next byte.
            if not problem and silent_s > self._every_s + 2 * TIMEOUT_S:
                problem = f"no answer within {TIMEOUT_S:g} s"
            return Seen(self._value, problem, silent_s, self._locked, self._asked)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ended.is_set():
            try:
                value = self._ask()
            except NoAnswer as error:
                self._missed(str(error) or "no answer", isinstance(error, Locked))
            else:
                self._got(value)
            # Where an answer took longer, what was missed is not made up for.
            due = max(due + self._every_s, time.monotonic())
            self._ended.wait(due - time.monotonic())

    def _got(self, value: T) -> None:
        with self._lock:
            self._value, self._problem, self._locked = value, "", False
            self._asked += 1
            self._answered_at = time.monotonic()

    def _missed(self, problem: str, locked: bool) -> None:
        with self._lock:
            self._problem, self._locked = problem, locked
            self._asked += 1


class CounterSource(Source[Sample]):
    """One of metrics: keeps what they grow by. together: see `rates.growth`."""

    def __init__(
        self, ask: Callable[[], Sample], every_s: float, window_s: float, together: tuple[str, ...] = MODEL
    ) -> None:
        super().__init__(ask, every_s)
        self._series = Series(window_s, together)

    def _got(self, value: Sample) -> None:
        with self._lock:
            self._series.add(Reading(time.monotonic(), value))
        super()._got(value)

    def _missed(self, problem: str, locked: bool) -> None:
        with self._lock:
            self._series.missed()
        super()._missed(problem, locked)

    @property
    def window(self) -> Growth:
        """Growth over the window."""
        with self._lock:
            return self._series.window

    @property
    def last(self) -> Growth:
        """Growth between the last two answers."""
        with self._lock:
            return self._series.last
