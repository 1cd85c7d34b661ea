"""Distributions, and how sure a difference of two samples is."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Of an interval: how often it is to hold what is true, and how many resamples show it.
CONFIDENCE, RESAMPLES, SEED = 0.95, 2000, 20240229

#: As many random numbers are drawn at a time (8 bytes each), and up to so many values a mean is resampled itself.
_CHUNK, _MOST_RESAMPLED = 2_000_000, 5000

#: Of groups there are RESAMPLES divided by this: each takes as long as its values are many.
_FEWER = 5


@dataclass(frozen=True)
class Distribution:
    """A sample in short, in its own unit. Percentiles are interpolated linearly (type 7 of Hyndman and Fan 1996, which
    is NumPy's default)."""

    count: int
    mean: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    max: float | None

    @classmethod
    def of(cls, values: Iterable[float] | Floats) -> "Distribution":
        """Of values that are all finite; of none, every figure but the count is None."""
        sample = array(values)
        if not len(sample):
            return cls(0, None, None, None, None, None, None)
        p50, p90, p95, p99 = (float(value) for value in np.quantile(sample, (0.5, 0.9, 0.95, 0.99)))
        return cls(len(sample), float(sample.mean()), p50, p90, p95, p99, float(sample.max()))

    def to_json(self, unit_factor: float = 1.0) -> dict[str, Any]:
        """By name, in a unit of which there are `unit_factor` in one of the sample's; with 6 decimals."""
        figures = zip(FIGURES, astuple(self)[1:], strict=True)
        return {"count": self.count, **{name: rounded(value, unit_factor) for name, value in figures}}


#: What a distribution has beside its count.
FIGURES = tuple(field.name for field in fields(Distribution))[1:]


def rounded(value: float | None, factor: float = 1.0) -> float | None:
    """With 6 decimals, as files hold it; None stays None."""
    return None if value is None else round(float(value) * factor, 6)


def array(values: Iterable[float] | Floats) -> Floats:
    """As 64-bit floats."""
    return np.asarray(values if isinstance(values, np.ndarray | Sequence) else list(values), dtype=np.float64)


@dataclass(frozen=True)
class Interval:
    """In which a figure lies with a probability of CONFIDENCE."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether the figure may be `value`."""
        return self.low <= value <= self.high


def bootstrap_ratio(
    a: Sequence[Floats] | Floats, b: Sequence[Floats] | Floats, figure: str, seed: int = SEED
) -> Interval | None:
    """Of the figure (`mean`, or a percentile such as `p99`) of b over that of a: percentile bootstrap (Efron 1979).

    A sample is an array of values that are independent, or a list of arrays, each of values that belong together (the
    gaps of one request), which are then drawn together. None where a sample is empty or a figure of a can be 0.
    """
    drawn_a, drawn_b = _both(a, b, figure, seed)
    if not len(drawn_a) or not len(drawn_b) or (drawn_a == 0).any():
        return None
    return _interval(drawn_b / drawn_a)


def bootstrap_difference(
    a: Sequence[Floats] | Floats, b: Sequence[Floats] | Floats, figure: str, seed: int = SEED
) -> Interval | None:
    """The same of the figure of b less that of a. None where a sample is empty."""
    drawn_a, drawn_b = _both(a, b, figure, seed)
    return _interval(drawn_b - drawn_a) if len(drawn_a) and len(drawn_b) else None


def _interval(drawn: Floats) -> Interval:
    low, high = np.quantile(drawn, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return Interval(float(low), float(high))


def _both(a: Any, b: Any, figure: str, seed: int) -> tuple[Floats, Floats]:
    random = np.random.default_rng(seed)
    return _drawn(a, figure, random), _drawn(b, figure, random)


def _drawn(sample: Sequence[Floats] | Floats, figure: str, random: np.random.Generator) -> Floats:
    """The figure of each resample."""
    if isinstance(sample, np.ndarray):
        if not len(sample):
            return sample
        return _means(sample, random) if figure == "mean" else _quantiles(sample, _share(figure), random)
    groups = [group for group in sample if len(group)]
    return _of_groups(groups, figure, random) if groups else np.empty(0)


def _share(figure: str) -> float:
    return float(figure.removeprefix("p")) / 100


def _means(sample: Floats, random: np.random.Generator) -> Floats:
    """Of a large sample the means of resamples are normal (central limit theorem), and drawn as such."""
    count = len(sample)
    if count > _MOST_RESAMPLED:
        return random.normal(sample.mean(), sample.std() / np.sqrt(count), RESAMPLES)
    rows = max(1, _CHUNK // count)
    parts = [
        sample[random.integers(0, count, (min(rows, RESAMPLES - at), count))].mean(axis=1)
        for at in range(0, RESAMPLES, rows)
    ]
    return np.concatenate(parts)


def _quantiles(sample: Floats, share: float, random: np.random.Generator) -> Floats:
    """Without drawing whole resamples: the k-th smallest of n values drawn from a sample is the sample's value at the
    k-th smallest of n uniform numbers, which is Beta(k, n - k + 1), and the share of what is above it up to the next
    one is Beta(1, n - k) (David and Nagaraja, Order Statistics, 2003, 2.2 and 2.5)."""
    ordered, count = np.sort(sample), len(sample)
    place = share * (count - 1)
    k = min(int(place) + 1, count)
    lower = random.beta(k, count - k + 1, RESAMPLES)
    values = ordered[np.minimum((lower * count).astype(int), count - 1)]
    if k == count:
        return np.asarray(values)
    upper = lower + (1 - lower) * random.beta(1, count - k, RESAMPLES)
    above = ordered[np.minimum((upper * count).astype(int), count - 1)]
    return np.asarray(values + (place - (k - 1)) * (above - values))


def _of_groups(groups: Sequence[Floats], figure: str, random: np.random.Generator) -> Floats:
    """Whole groups are drawn: a value counts as often as its group was. Of very many groups, some are left out (the
    interval widens), and there are fewer resamples."""
    most = max(2, int(_CHUNK / 20 / np.mean([len(group) for group in groups])))
    if len(groups) > most:
        groups = [groups[index] for index in random.choice(len(groups), most, replace=False)]
    values = np.concatenate(groups)
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    owner = np.repeat(np.arange(len(groups)), [len(group) for group in groups])[order]
    drawn = []
    for _ in range(RESAMPLES // _FEWER):
        times = np.bincount(random.integers(0, len(groups), len(groups)), minlength=len(groups))[owner]
        total = np.cumsum(times)
        if figure == "mean":
            drawn.append(float((times * ordered).sum() / total[-1]))
        else:
            place = np.searchsorted(total, _share(figure) * (total[-1] - 1), side="right")
            drawn.append(float(ordered[place]))
    return np.repeat(drawn, _FEWER)
