"""By how much things came late, counted: hours of it take no more room, and no longer to look at, than seconds."""

from collections.abc import Iterable

import numpy as np

from .busyness import MOST_LAG_S, TICK_S

#: How finely delays are told apart, in s, and up to which; longer ones are only known as the longest.
_STEP_S, _END_S = 0.0001, 5.0


class Delays:
    """most_s: the longest."""

    def __init__(self) -> None:
        self._counts = np.zeros(round(_END_S / _STEP_S) + 1, dtype=np.int64)
        self.most_s = 0.0
        self._whole_s = self._late_s = 0.0

    def add(self, delays_s: Iterable[float]) -> None:
        """Some more; what came early counts as being in time."""
        for delay_s in delays_s:
            self._counts[min(max(0, round(delay_s / _STEP_S)), len(self._counts) - 1)] += 1
            self.most_s = max(self.most_s, delay_s)
            self._whole_s += TICK_S + delay_s
            self._late_s += max(0.0, delay_s - MOST_LAG_S)

    def quantile_s(self, share: float) -> float:
        """The delay that this share of them did not exceed, within 0.1 ms; 0 if there are none."""
        total = int(self._counts.sum())
        if not total:
            return 0.0
        index = int(np.searchsorted(np.cumsum(self._counts), share * (total - 1), side="right"))
        return self.most_s if index == len(self._counts) - 1 else min(index * _STEP_S, self.most_s)

    @property
    def late_share(self) -> float:
        """If they are those of ticks: of the time, the share in which what came was read more than MOST_LAG_S late.

        What comes in the middle of a pause waits for the rest of it.
        """
        return self._late_s / self._whole_s if self._whole_s else 0.0
