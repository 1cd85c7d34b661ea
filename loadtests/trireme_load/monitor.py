"""Watches the load generator itself: what it cannot keep up with, it must not blame on the server."""

import resource
import time
from dataclasses import dataclass, field

import gevent
import numpy as np

from .run import Generator

_TICK_S = 0.01

#: Over how long processor time is averaged.
_WINDOW_S = 5.0


def cpu_s() -> float:
    """Processor time of this process, in s."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@dataclass
class Monitor:
    """A greenlet that sleeps and looks how late it wakes up: so late, messages are read, too."""

    worker: int
    messages: int = 0
    lags_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    _busiest: float = 0.0
    _greenlet: gevent.Greenlet | None = None

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
        self.lags_s.clear()
        self.late_s.clear()
        self._busiest = 0.0
        self.messages = 0

    def _watch(self) -> None:
        window, used = time.monotonic(), cpu_s()
        while True:
            before = time.monotonic()
            gevent.sleep(_TICK_S)
            now = time.monotonic()
            self.lags_s.append(now - before - _TICK_S)
            if now - window >= _WINDOW_S:
                self._busiest = max(self._busiest, (cpu_s() - used) / (now - window))
                window, used = now, cpu_s()

    @property
    def seen(self) -> Generator:
        """What was seen since the begin, or since `forget`."""

        def quantile(values: list[float], share: float) -> float:
            return float(np.quantile(values, share)) if values else 0.0

        return Generator(
            worker=self.worker,
            cpu_share=self._busiest,
            lag_p99_s=max(0.0, quantile(self.lags_s, 0.99)),
            lag_max_s=max(0.0, quantile(self.lags_s, 1.0)),
            sent_late_p99_s=max(0.0, quantile(self.late_s, 0.99)),
            messages=self.messages,
        )
