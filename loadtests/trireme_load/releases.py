"""What a change of release looked like to those who asked: before, during and after it."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from .columns import latencies_s
from .record import Record
from .statistics import Distribution


@dataclass(frozen=True)
class Phase:
    """A stretch of a run, in s since it began. releases: those that answered in it, by name. Latencies are in s, of the
    requests that were to be sent in it; failed and errors_share are of those, too."""

    name: str
    start_s: float
    end_s: float
    requests: int
    failed: int
    releases: tuple[str, ...]
    ttft: Distribution
    e2e: Distribution

    @property
    def errors_share(self) -> float:
        """Of all requests."""
        return self.failed / self.requests if self.requests else 0.0


def releases_of(records: Sequence[Record]) -> list[str]:
    """Those that answered, in the order in which the first request that each answered was to be sent."""
    first: dict[str, float] = {}
    for record in records:
        if record.is_ok and record.release:
            first[record.release] = min(record.intended_s, first.get(record.release, record.intended_s))
    return sorted(first, key=lambda release: first[release])


def phases(records: Sequence[Record]) -> list[Phase]:
    """Of a run that more than one release answered; otherwise none.

    A change begins with the first request that the next release answers. It is over after the last request of that one
    of the two which falls silent first (of the new one, if it was taken back), or when the next change begins.
    """
    releases = releases_of(records)
    if len(releases) < 2:
        return []
    spans = {release: _span([one for one in records if one.is_ok and one.release == release]) for release in releases}
    end = max(record.intended_s for record in records)
    cuts = [("before", 0.0)]
    nexts = [spans[release][0] for release in releases[2:]] + [end]
    for (before, after), next_begin in zip(itertools.pairwise(releases), nexts, strict=True):
        begun = spans[after][0]
        over = max(begun, min(spans[before][1], spans[after][1]))
        cuts.append((f"change from {before} to {after}", begun))
        cuts.append((f"after {after} came", min(over, next_begin)))
    found = []
    stops = [at for _, at in cuts[1:]] + [math.inf]
    for (name, start), stop in zip(cuts, stops, strict=True):
        ours = [one for one in records if start <= one.intended_s < stop]
        if ours:
            found.append(_phase(name, start, min(stop, end), ours))
    return found


def _span(records: Sequence[Record]) -> tuple[float, float]:
    return min(record.intended_s for record in records), max(record.intended_s for record in records)


def _phase(name: str, start_s: float, end_s: float, records: Sequence[Record]) -> Phase:
    samples = latencies_s(records)
    return Phase(
        name,
        start_s,
        end_s,
        len(records),
        sum(record.is_failed for record in records),
        tuple(releases_of(records)),
        Distribution.of(samples["ttft"]),
        Distribution.of(samples["e2e"]),
    )
