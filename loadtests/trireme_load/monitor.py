"""Watches the load generator itself: what it cannot keep up with, it must not blame on the server."""

import time
from collections.abc import Sequence

import gevent
import numpy as np

from .busyness import TICK_S, Busyness
from .run import Generator


class Monitor:
    """A greenlet that sleeps and looks how late it wakes up: so late, messages are read, too.

    worker: which process it is. messages: that were read. late_s: by how much requests went out after their time.
    """

    def __init__(self, worker: int) -> None:
        self.worker = worker
        self.messages = 0
        self.late_s: list[float] = []
        self._own = Busyness()
        self._other_lags_s: list[float] = []
        self._other_busiest = 0.0
        self._greenlet: gevent.Greenlet | None = None

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
        self._other_lags_s.clear()
        self._other_busiest = 0.0
        self.late_s.clear()
        self.messages = 0

    def take(self, busiest: float, lags_s: Sequence[float]) -> None:
        """What a process that reads for this one saw of itself."""
        self._other_busiest = max(self._other_busiest, busiest)
        self._other_lags_s.extend(lags_s)

    def _watch(self) -> None:
        while True:
            before = time.monotonic()
            gevent.sleep(TICK_S)
            self._own.woke(before)

    @property
    def seen(self) -> Generator:
        """What was seen since the begin, or since `forget`: of the two processes, the worse."""

        def quantile(values: Sequence[float], share: float) -> float:
            return max(0.0, float(np.quantile(values, share))) if values else 0.0

        def worse(share: float) -> float:
            return max(quantile(self._own.lags_s, share), quantile(self._other_lags_s, share))

        return Generator(
            worker=self.worker,
            cpu_share=max(self._own.busiest, self._other_busiest),
            lag_p99_s=worse(0.99),
            lag_max_s=worse(1.0),
            sent_late_p99_s=quantile(self.late_s, 0.99),
            messages=self.messages,
            late_share=max(Busyness.late_share(self._own.lags_s), Busyness.late_share(self._other_lags_s)),
        )
