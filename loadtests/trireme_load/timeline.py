"""A run in intervals."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .columns import Flow
from .record import Record
from .run import Run
from .statistics import Floats, rounded

#: Widths of an interval in s that are easy to read, and how many there are at most.
_WIDTHS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
MOST_INTERVALS = 120


def width_s(length_s: float) -> float:
    """Of the intervals of something so long: the smallest round width that needs no more than MOST_INTERVALS."""
    fitting = [width for width in _WIDTHS_S if length_s / width <= MOST_INTERVALS]
    return fitting[0] if fitting else 3600.0 * math.ceil(length_s / MOST_INTERVALS / 3600)


def edges_of(start_s: float, end_s: float) -> Floats:
    """Of the intervals between; the last one may be shorter."""
    length_s = end_s - start_s
    if length_s <= 0:
        return np.empty(0)
    width = width_s(length_s)
    count = max(1, math.ceil(length_s / width - 1e-9))
    return np.append(start_s + width * np.arange(count), end_s)


def level_at(levels: Sequence[tuple[float, float]], at_s: float) -> float | None:
    """The load that was wanted at a time; None before the first."""
    return next((level for start_s, level in reversed(levels) if start_s <= at_s), None)


def timeline_of(run: Run, records: Sequence[Record], end_s: float) -> list[dict[str, Any]]:
    """From the run's begin to `end_s`, the warm-up included; keys as in summary.json."""
    edges = edges_of(0.0, end_s)
    if not len(edges):
        return []
    widths = np.diff(edges)
    flow = Flow(records, run.slo)
    p50, p99 = ttft_by_interval(records, edges)
    columns = {
        "requests_per_s": flow.successes(edges) / widths,
        "tokens_per_s": flow.tokens(edges) / widths,
        "in_flight": flow.in_flight(edges),
        "errors": flow.failures(edges),
    }
    return [
        {
            "t": rounded(edges[index]),
            "width": rounded(widths[index]),
            "wanted": level_at(run.levels, float(edges[index] + widths[index] / 2)),
            **{name: rounded(values[index]) for name, values in columns.items()},
            "ttft_p50": rounded(p50[index], 1000),
            "ttft_p99": rounded(p99[index], 1000),
        }
        for index in range(len(widths))
    ]


def ttft_by_interval(records: Sequence[Record], edges: Floats) -> tuple[list[float | None], list[float | None]]:
    """p50 and p99 in s of the requests that were to be sent in each interval and succeeded."""
    rows = [(record.intended_s, record.ttft_s) for record in records if record.is_ok and record.ttft_s is not None]
    at, values = np.asarray(sorted(rows), dtype=np.float64).reshape(-1, 2).T
    parts = np.split(values, np.searchsorted(at, edges, side="left"))[1:-1]
    p50, p99 = ([float(np.quantile(part, share)) if len(part) else None for part in parts] for share in (0.5, 0.99))
    return p50, p99
