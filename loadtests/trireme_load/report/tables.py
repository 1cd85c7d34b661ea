"""The tables of a run's page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..releases import Phase
from ..summary import plain
from ..table import figure
from .numbers import percent, significant

#: Latencies that are shown, by key of the summary.
TITLES = {
    "ttft": "TTFT",
    "itl": "ITL",
    "tpot": "TPOT",
    "e2e": "E2E",
    "queue": "Queue",
    "sent_late": "Sent late",
}

COLUMNS = ("mean", "p50", "p90", "p95", "p99", "max")


@dataclass(frozen=True)
class Table:
    """left: which columns hold text; the first of every row is its title."""

    name: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[int] = ()


def share(value: float | None) -> str:
    """As it stands in a table."""
    return figure(None) if value is None else percent(value)


def latencies(summary: Mapping[str, Any]) -> Table:
    """All of them, in ms."""
    rows = [
        [title, f"{summary[key]['count']:,}", *(figure(summary[key][name]) for name in COLUMNS)]
        for key, title in TITLES.items()
    ]
    return Table("Latencies in ms", ["ms", "count", *COLUMNS], rows)


def errors(summary: Mapping[str, Any]) -> Table:
    """By code."""
    rows = [
        [code, f"{one['count']:,}", share(one["share"]), one["example"]]
        for code, one in summary["errors"]["by_code"].items()
    ]
    return Table("Errors", ["Code", "count", "share", "An example"], rows, left=(3,))


def groups(name: str, by: Mapping[str, Any]) -> Table:
    """The figures of each group in brief. name: what the groups are, such as "Scenario"."""
    head = [name, "requests", "TTFT p50", "TTFT p99", "TPOT p50", "E2E p50", "E2E p99", "requests/s", "tokens/s"]
    rows = [
        [
            title or "not said",
            f"{one['requests']['sent']:,}",
            *(figure(one[key][column]) for key, column in _BRIEF),
            figure(one["requests_per_s"]),
            figure(one["tokens_per_s"]["total"]),
            share(one["goodput"]["share"]),
            share(one["errors"]["share"]),
        ]
        for title, one in by.items()
    ]
    return Table(f"By {name.lower()}, latencies in ms", [*head, "goodput", "errors"], rows)


_BRIEF = (("ttft", "p50"), ("ttft", "p99"), ("tpot", "p50"), ("e2e", "p50"), ("e2e", "p99"))


def changes(found: Sequence[Phase]) -> Table:
    """Of releases, over time."""
    rows = [
        [
            phase.name,
            f"{phase.start_s:.1f} to {phase.end_s:.1f} s",
            f"{phase.requests:,}",
            *(figure(None if value is None else 1000 * value) for value in _ends(phase)),
            f"{phase.failed:,} ({percent(phase.errors_share)})",
        ]
        for phase in found
    ]
    head = ["Phase", "when", "requests", "TTFT p50", "TTFT p99", "E2E p50", "E2E p99", "errors"]
    return Table("Before, during and after a change of release, latencies in ms", head, rows)


def _ends(phase: Phase) -> tuple[float | None, ...]:
    return phase.ttft.p50, phase.ttft.p99, phase.e2e.p50, phase.e2e.p99


def generators(summary: Mapping[str, Any]) -> Table:
    """The processes that sent requests."""
    rows = [
        [
            f"process {one['worker']}",
            percent(one["cpu_share"] or 0.0),
            *(significant(1000 * (one[key] or 0.0)) for key in ("lag_p99_s", "lag_max_s", "sent_late_p99_s")),
            f"{one['messages']:,}",
        ]
        for one in summary["generators"]
    ]
    head = ["Load generator", "busiest CPU", "timer late p99, ms", "at most, ms", "sent late p99, ms", "messages read"]
    return Table("Load generators", head, rows)


def facts(name: str, values: Mapping[str, Any]) -> Table:
    """Anything that has a name and a value; what was not set is left out."""
    rows = [[str(key), said(value)] for key, value in values.items() if value != ""]
    return Table(name, [name, "Value"], rows, left=(1,))


def said(value: Any) -> str:
    """As text."""
    return value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False)
