"""How busy a process is: the share of a core that it takes, and how late its timers come."""

import time

#: How often a process that is watched wakes up to look, in s.
TICK_S = 0.01

#: By how much a timer may be late, in s, without harm to what is measured.
MOST_LAG_S = 0.05

#: Over how long processor time is averaged.
_WINDOW_S = 5.0


class Busyness:
    """Is told of each tick. busiest: the share of a core in the busiest window. lags_s: by how much ticks came late."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.lags_s: list[float] = []
        self.busiest = 0.0
        self._since, self._used = time.monotonic(), time.process_time()

    def woke(self, slept_from: float) -> None:
        """A tick is over that began at `slept_from`, on the monotonic clock."""
        now = time.monotonic()
        self.lags_s.append(now - slept_from - TICK_S)
        if now - self._since >= _WINDOW_S:
            used = time.process_time()
            self.busiest = max(self.busiest, (used - self._used) / (now - self._since))
            self._since, self._used = now, used
