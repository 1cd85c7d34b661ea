"""Records as columns, and how much of something fell into a stretch of time."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain

import numpy as np

from .record import Record
from .slo import Slo
from .statistics import Floats


def latencies_s(records: Iterable[Record]) -> dict[str, Floats]:
    """By name, of those that succeeded and have one: what failed can improve no latency."""
    good = [record for record in records if record.is_ok]

    def known(values: Iterable[float | None]) -> Floats:
        return np.asarray([value for value in values if value is not None], dtype=np.float64)

    return {
        "ttft": known(record.ttft_s for record in good),
        "tpot": known(record.tpot_s for record in good),
        "itl": np.fromiter(chain.from_iterable(record.gaps_s for record in good), np.float64),
        "e2e": known(record.e2e_s for record in good),
        "queue": known(record.queue_s for record in good),
    }


class Flow:
    """What requests bring over time. Times are in s since the run began; a stretch holds its begin and not its end."""

    def __init__(self, records: Sequence[Record], slo: Slo) -> None:
        self._records = records
        self._slo = slo

    def successes(self, edges: Floats) -> Floats:
        """How many ended well between each edge and the next."""
        return _counted(self._ends_ok, edges)

    def good(self, edges: Floats) -> Floats:
        """How many of them met every objective."""
        return _counted(self._ends_good, edges)

    def failures(self, edges: Floats) -> Floats:
        """How many ended with an error."""
        return _counted(self._ends_failed, edges)

    def tokens(self, edges: Floats) -> Floats:
        """Output tokens, those of a request evenly from its first to its last message. Failed requests bring none."""
        first, last, count = self._tokens
        return np.diff([float((count * _passed(first, last, edge)).sum()) for edge in edges])

    def in_flight(self, edges: Floats) -> Floats:
        """The mean number of requests that were sent and not over."""
        sent, end = self._spans
        spent = [float(np.clip(edge - sent, 0, end - sent).sum()) for edge in edges]
        return np.asarray(np.diff(spent) / np.diff(edges))

    @cached_property
    def _ends_ok(self) -> Floats:
        return np.asarray([record.end_s for record in self._records if record.is_ok], dtype=np.float64)

    @cached_property
    def _ends_good(self) -> Floats:
        return np.asarray([record.end_s for record in self._records if self._slo.is_met(record)], dtype=np.float64)

    @cached_property
    def _ends_failed(self) -> Floats:
        return np.asarray([record.end_s for record in self._records if record.is_failed], dtype=np.float64)

    @cached_property
    def _spans(self) -> tuple[Floats, Floats]:
        spans = np.asarray([(record.sent_s, record.end_s) for record in self._records], dtype=np.float64)
        sent, end = spans.reshape(-1, 2).T
        return sent, np.maximum(sent, end)

    @cached_property
    def _tokens(self) -> tuple[Floats, Floats, Floats]:
        """first, last and count: a request that did not stream brings all at its end."""
        rows = [
            (record.end_s, record.end_s, record.output_tokens)
            if record.first_token_s is None
            else (record.first_token_s, max(record.first_token_s, record.last_token_s or 0.0), record.output_tokens)
            for record in self._records
            if record.output_tokens and not record.is_failed
        ]
        first, last, count = np.asarray(rows, dtype=np.float64).reshape(-1, 3).T
        return first, last, count


def _counted(times: Floats, edges: Floats) -> Floats:
    """Between successive edges; np.histogram would count the last edge in."""
    return np.diff(np.searchsorted(np.sort(times), edges, side="left")).astype(np.float64)


def _passed(first: Floats, last: Floats, at: float) -> Floats:
    """Which share of each span lies before `at`."""
    width = last - first
    return np.where(width > 0, np.clip((at - first) / np.where(width > 0, width, 1), 0, 1), first < at)
