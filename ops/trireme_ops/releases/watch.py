"""What each release did, from the counters at Triton's Prometheus endpoint, and whether that breaks a limit."""

import http.client
import math
import re
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from ..errors import OperatorError

_FINISHED = "trireme_requests_finished_total"
_REFUSED = "trireme_requests_refused_total"
_TOKENS = "trireme_generated_tokens_total"
_TTFT = "trireme_time_to_first_token_seconds"

#: Codes of refusals that are the server's fault; a full queue, or a bad request, is nobody's.
_FAULTS = ("UNAVAILABLE", "INTERNAL")

#: How sure one must be that a median is too high: standard deviations of a normal distribution, one-sided 95 %.
_Z = 1.645

_HELP = re.compile(r"^#.*\n", re.MULTILINE)

_Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Sample:
    """Trireme's metrics at one moment: (name, labels) -> value."""

    values: Mapping[tuple[str, _Labels], float]

    @classmethod
    def parse(cls, text: str, prefixes: tuple[str, ...] = ("trireme_",)) -> "Sample":
        """From the text of the endpoint: what begins with one of `prefixes`. Raises OperatorError where it is none."""
        # Several processes describe the same metric, and the parser takes the second description for another metric.
        lines = "".join(f"{line}\n" for line in _HELP.sub("", text).splitlines() if line.startswith(prefixes))
        try:
            return cls(
                {
                    (sample.name, frozenset(sample.labels.items())): float(sample.value)
                    for family in text_string_to_metric_families(lines)
                    for sample in family.samples
                }
            )
        except (ValueError, IndexError) as error:
            raise OperatorError(f"the metrics are not understood: {error}") from None


def scrape(metrics_url: str, timeout_s: float = 5.0) -> Sample:
    """What a server has counted. Raises OSError where none answers, OperatorError for what are no metrics."""
    try:
        with urllib.request.urlopen(metrics_url, timeout=timeout_s) as answer:
            return Sample.parse(answer.read().decode("utf-8", "replace"))
    except http.client.HTTPException as error:
        raise ConnectionError(f"{metrics_url}: the answer broke off: {error!r}") from None


@dataclass(frozen=True)
class Histogram:
    """How many observations were at most so large. buckets: (upper bound, observations up to it), lowest first."""

    buckets: tuple[tuple[float, float], ...] = ()
    sum: float = 0.0

    @property
    def count(self) -> float:
        """All observations."""
        return self.buckets[-1][1] if self.buckets else 0.0

    @property
    def mean(self) -> float | None:
        """None where nothing was observed."""
        return self.sum / self.count if self.count else None

    def quantile(self, share: float) -> float | None:
        """As Prometheus' histogram_quantile: even within a bucket; above the last bound, that bound."""
        if not self.count:
            return None
        wanted = min(1.0, max(0.0, share)) * self.count
        lower, below = 0.0, 0.0
        for bound, upto in self.buckets:
            if upto >= wanted and upto > below:
                return lower if math.isinf(bound) else lower + (bound - lower) * (wanted - below) / (upto - below)
            if not math.isinf(bound):
                lower, below = bound, upto
        return lower


@dataclass(frozen=True)
class ReleaseFigures:
    """What one release did in a time. release: its name, "" where none is live.

    requests: those that ended, and those refused by fault of the server; not those that a full queue turned away, and
    none with bad arguments. errors: those of them that failed. error_rate: 0 to 1. ttft: in s, of streams. tokens:
    generated ids.
    """

    release: str
    requests: float
    errors: float
    tokens: float
    ttft: Histogram = field(default_factory=Histogram)

    @property
    def error_rate(self) -> float:
        """0 where there were no requests."""
        return self.errors / self.requests if self.requests else 0.0

    @property
    def ttft_p50_s(self) -> float | None:
        """None where no stream began."""
        return self.ttft.quantile(0.5)

    @property
    def ttft_p99_s(self) -> float | None:
        """None where no stream began."""
        return self.ttft.quantile(0.99)

    @property
    def ttft_mean_s(self) -> float | None:
        """None where no stream began; exact, where the quantiles are read off buckets."""
        return self.ttft.mean

    @property
    def shown(self) -> str:
        """The release, as a message names it."""
        return self.release or "unreleased"


def figures(before: Sample | None, after: Sample, model: str, release: str, also: Iterable[str] = ()) -> ReleaseFigures:
    """What a release did between two samples of one server; before: None for since its start.

    model: its engine model, without the release's name; also: models in front of it, whose refusals count as well.
    Versions are added up. Where a counter is lower than before, the model was loaded again, and all of the model's
    counters count from 0: what it did before that in this time is lost.
    """
    counts = _growth(before, after, model, release)
    refusals = [counts, *(_growth(before, after, name, release) for name in also)]
    faults = sum(
        value
        for growth in refusals
        for (name, labels), value in growth.items()
        if name == _REFUSED and dict(labels).get("code") in _FAULTS
    )
    ended = failed = tokens = ttft_sum = 0.0
    buckets: defaultdict[float, float] = defaultdict(float)
    for (name, labels), value in counts.items():
        if name == _FINISHED:
            ended += value
            failed += value if dict(labels).get("finish_reason") == "error" else 0
        elif name == _TOKENS:
            tokens += value
        elif name == f"{_TTFT}_sum":
            ttft_sum += value
        elif name == f"{_TTFT}_bucket":
            buckets[float(dict(labels)["le"])] += value
    histogram = Histogram(tuple(sorted(buckets.items())), ttft_sum)
    return ReleaseFigures(release, ended + faults, failed + faults, tokens, histogram)


def _growth(before: Sample | None, after: Sample, model: str, release: str) -> dict[tuple[str, _Labels], float]:
    """By how much each counter of a model of a release has grown."""
    by_version: defaultdict[str, dict[tuple[str, _Labels], float]] = defaultdict(dict)
    for (name, labels), value in after.values.items():
        named = dict(labels)
        if named.get("model") == model and named.get("release", "") == release and _is_counter(name):
            by_version[named.get("version", "")][name, labels] = value
    growth: dict[tuple[str, _Labels], float] = {}
    for values in by_version.values():
        earlier = {} if before is None else {key: before.values.get(key, 0.0) for key in values}
        if any(value < earlier.get(key, 0.0) for key, value in values.items()):
            earlier = {}
        growth.update({key: value - earlier.get(key, 0.0) for key, value in values.items()})
    return growth


def _is_counter(name: str) -> bool:
    return name.endswith(("_total", "_bucket", "_sum", "_count"))


@dataclass(frozen=True)
class Limits:
    """What a release is held to.

    max_error_rate: 0 to 1. max_ttft_ratio: its median time to first token over that of what it is compared with.
    min_requests: how many streams both must have had for their TTFT to be compared; of fewer requests than that, the
    missing ones count as right when the error rate is judged.
    """

    max_error_rate: float = 0.001
    max_ttft_ratio: float = 1.3
    min_requests: int = 50


def breach(new: ReleaseFigures, old: ReleaseFigures | None, limits: Limits) -> str | None:
    """What figure of a release breaks a limit, in a sentence with its value and the limit; None if none does.

    The error rate is errors over requests, at least over `min_requests`: what fails is judged at once, and what has not
    been asked yet counts as right. A TTFT is too high only where noise does not explain it, which takes `min_requests`
    on either side: the lower bound of the new median must be above the limit times the upper bound of the old one (each
    with 95 % confidence, from order statistics), and the ratio of the means must be above the limit too, since
    medians are read off buckets and jump where many observations lie close to a bound.
    """
    rate = new.errors / max(new.requests, limits.min_requests, 1)
    if rate > limits.max_error_rate:
        return (
            f"the error rate of {new.shown} is {100 * new.error_rate:.2f} % ({new.errors:g} of {new.requests:g} "
            f"requests); allowed are {100 * limits.max_error_rate:g} %"
        )
    if old is None or min(new.ttft.count, old.ttft.count) < max(1, limits.min_requests):
        return None
    low, high = _median_bound(new.ttft, -1), _median_bound(old.ttft, 1)
    new_mean_s, old_mean_s = new.ttft_mean_s or 0.0, old.ttft_mean_s or 0.0
    if low > limits.max_ttft_ratio * high and new_mean_s > limits.max_ttft_ratio * old_mean_s:
        new_s, old_s = new.ttft_p50_s or 0.0, old.ttft_p50_s or 0.0
        return (
            f"the median TTFT of {new.shown} is {1000 * new_s:.1f} ms, {new_s / old_s:.2f} times the "
            f"{1000 * old_s:.1f} ms of {old.shown}; allowed are {limits.max_ttft_ratio:g} times"
        )
    return None


def _median_bound(histogram: Histogram, side: int) -> float:
    """What the median is not below (side -1) or not above (side 1), with 95 % confidence."""
    return histogram.quantile(0.5 + side * _Z / 2 / math.sqrt(histogram.count)) or 0.0
