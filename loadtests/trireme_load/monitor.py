"""Watches the load generator itself: what it cannot keep up with, it must not blame on the server."""

import time
from collections.abc import Sequence

import gevent

from .busyness import TICK_S, Busyness
from .delays import Delays
from .run import Generator


class Monitor:
    """A greenlet that sleeps and looks how late it wakes up: so late, messages are read, too.

    worker: which process it is. messages: that were read.
    """

    def __init__(self, worker: int) -> None:
        self.worker = worker
        self._own = Busyness()
        self._greenlet: gevent.Greenlet | None = None
        self.forget()

    def start(self) -> None:
        """Begin to watch."""
        self._greenlet = gevent.spawn(self._watch)

    def stop(self) -> None:
        """Watch no more."""
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None

    def forget(self) -> None:
        """What was seen so far belongs to the warm-up."""
        self._own.forget()
        self._own_lags, self._other_lags = Delays(), Delays()
        self._other_busiest = 0.0
        #: By how much requests went out after their time.
        self.late = Delays()
        self.messages = 0

    def take(self, busiest: float, lags_s: Sequence[float]) -> None:
        """What a process that reads for this one saw of itself."""
        self._other_busiest = max(self._other_busiest, busiest)
        self._other_lags.add(lags_s)

    def _watch(self) -> None:
        while True:
            before = time.monotonic()
            gevent.sleep(TICK_S)
            self._own.woke(before)

    @property
    def seen(self) -> Generator:
        """What was seen since the begin, or since `forget`: of the two processes, the worse."""
        self._own_lags.add(self._own.lags_s)
        self._own.lags_s = []
        both = (self._own_lags, self._other_lags)
        return Generator(
            worker=self.worker,
            cpu_share=max(self._own.busiest, self._other_busiest),
            lag_p99_s=max(lags.quantile_s(0.99) for lags in both),
            lag_max_s=max(lags.most_s for lags in both),
            sent_late_p99_s=self.late.quantile_s(0.99),
            messages=self.messages,
            late_share=max(lags.late_share for lags in both),
        )
