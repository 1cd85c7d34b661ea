"""What counters say: growth between readings, and the quantiles and rates that follow. Pure.

Quantiles are Prometheus' histogram_quantile (promql/quantile.go, bucketQuantile): even within a bucket, the last finite
bound above it.
"""

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..releases.watch import Histogram, Sample

Labels = frozenset[tuple[str, str]]
Counts = Mapping[tuple[str, Labels], float]

#: What a model's counters share, and lose together when it is loaded again.
MODEL = ("model", "version", "release")

_SUFFIXES = ("_total", "_bucket", "_sum", "_count")


@dataclass(frozen=True)
class Reading:
    """What was read, and when: seconds of a clock that does not jump."""

    at_s: float
    sample: Sample


@dataclass(frozen=True)
class Growth:
    """By how much counters grew in `elapsed_s`."""

    elapsed_s: float = 0.0
    counts: Counts = field(default_factory=dict)


def growth(before: Reading, after: Reading, together: tuple[str, ...] = MODEL) -> Growth:
    """What was counted between two readings.

    together: labels; counters that agree in them come from one process. Where one of these is lower than before, that
    process began anew, and all of its counters count from 0.
    """
    groups: defaultdict[tuple[str, ...], dict[tuple[str, Labels], float]] = defaultdict(dict)
    for (name, labels), value in after.sample.values.items():
        # Triton's nv_inference_pending_request_count is a gauge, whatever its name says.
        if name.startswith("trireme_") and name.endswith(_SUFFIXES) and not math.isnan(value):
            named = dict(labels)
            groups[tuple(named.get(label, "") for label in together)][name, labels] = value
    counts: dict[tuple[str, Labels], float] = {}
    for values in groups.values():
        earlier = {key: before.sample.values.get(key, 0.0) for key in values}
        if any(value < earlier[key] for key, value in values.items()):
            earlier = dict.fromkeys(values, 0.0)
        counts.update({key: value - earlier[key] for key, value in values.items()})
    return Growth(max(0.0, after.at_s - before.at_s), counts)


def added(growths: Iterable[Growth]) -> Growth:
    """Several stretches of time as one."""
    elapsed_s, counts = 0.0, defaultdict[tuple[str, Labels], float](float)
    for one in growths:
        elapsed_s += one.elapsed_s
        for key, value in one.counts.items():
            counts[key] += value
    return Growth(elapsed_s, dict(counts))


class Series:
    """The readings of one endpoint. window_s: how far back its growth is looked at; without times of silence."""

    def __init__(self, window_s: float, together: tuple[str, ...] = MODEL) -> None:
        self._window_s = window_s
        self._together = together
        self._growths: deque[tuple[float, Growth]] = deque()
        self.latest: Reading | None = None

    def add(self, reading: Reading) -> None:
        """One more."""
        if self.latest is not None:
            self._growths.append((reading.at_s, growth(self.latest, reading, self._together)))
        self.latest = reading
        # A stretch counts if half of it lies in the window.
        while self._growths:
            at_s, oldest = self._growths[0]
            if at_s - oldest.elapsed_s / 2 >= reading.at_s - self._window_s or len(self._growths) == 1:
                break
            self._growths.popleft()

    def missed(self) -> None:
        """It did not answer: what it counts until it does belongs to no stretch."""
        self.latest = None
        self._growths.clear()

    @property
    def window(self) -> Growth:
        """Over the window."""
        return added(one for _, one in self._growths)

    @property
    def last(self) -> Growth:
        """Between the last two readings."""
        return self._growths[-1][1] if self._growths else Growth()


def histogram(counts: Counts, name: str, **wanted: str) -> Histogram:
    """The observations of a histogram, summed over all series that have the labels `wanted`."""
    buckets: defaultdict[float, float] = defaultdict(float)
    total = 0.0
    for (metric, labels), value in counts.items():
        if metric in (f"{name}_bucket", f"{name}_sum"):
            named = dict(labels)
            if all(named.get(key) == text for key, text in wanted.items()):
                if metric.endswith("_sum"):
                    total += value
                else:
                    buckets[float(named["le"])] += value
    return _monotonic(buckets, total)


def joined(histograms: Iterable[Histogram]) -> Histogram:
    """Several as one, over the bounds that they share; those that saw nothing are left out."""
    seen = [one for one in histograms if one.count]
    if not seen:
        return Histogram()
    shared = set.intersection(*({bound for bound, _ in one.buckets} for one in seen))
    buckets: defaultdict[float, float] = defaultdict(float)
    for one in seen:
        for bound, upto in one.buckets:
            if bound in shared:
                buckets[bound] += upto
    return _monotonic(buckets, sum(one.sum for one in seen))


def _monotonic(buckets: Mapping[float, float], total: float) -> Histogram:
    """Buckets are not read in one instant; what falls is held, as Prometheus does."""
    most, rising = 0.0, []
    for bound, upto in sorted(buckets.items()):
        most = max(most, upto)
        rising.append((bound, most))
    return Histogram(tuple(rising), total)


def share_within(histogram: Histogram, limit: float) -> float | None:
    """The share of observations, 0 to 1, of at most `limit`, even within a bucket; None where there are none.

    Of those above the last finite bound it is not known how large they are: they count as too large.
    """
    if not histogram.count:
        return None
    lower, below = 0.0, 0.0
    for bound, upto in histogram.buckets:
        if math.isinf(bound):
            break
        if limit < bound:
            return (below + (upto - below) * (limit - lower) / (bound - lower)) / histogram.count
        lower, below = bound, upto
    return below / histogram.count


def summed(counts: Counts, name: str, **wanted: str) -> float:
    """The sum of a counter, or a gauge, over all series that have the labels `wanted`."""
    return sum(
        value
        for (metric, labels), value in counts.items()
        if metric == name and all(dict(labels).get(key) == text for key, text in wanted.items())
    )


def labels_of(counts: Counts, name: str) -> list[dict[str, str]]:
    """The labels of each series of a metric."""
    return [dict(labels) for metric, labels in counts if metric == name]
