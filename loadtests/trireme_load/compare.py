"""Two runs side by side: what differs, by how much, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .columns import Flow, latencies_s
from .compared import CELLS, Kind, Row, row_of
from .record import CANCELLED, Record
from .run import Run
from .statistics import Floats
from .summary import measured, measured_s, plain, summarize
from .table import aligned, one_line
from .timeline import edges_of

#: Settings that say where results go; everything else can change the figures.
_HARMLESS = frozenset({"out", "title", "name", "open"})

#: Compared of every latency.
_FIGURES = ("p50", "p99", "mean")
_LATENCIES = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2e": "E2E"}


@dataclass(frozen=True)
class Side:
    """One of the two. samples_s: its latencies in s, by name."""

    name: str
    summary: Mapping[str, Any]
    samples_s: Mapping[str, Floats]


@dataclass(frozen=True)
class Comparison:
    """warnings: why the two may not be comparable, in plain words."""

    a: Side
    b: Side
    rows: Sequence[Row]
    warnings: Sequence[str]

    @property
    def text(self) -> str:
        """For a terminal."""
        names = [f"A: {one_line(self.a.name)}", f"B: {one_line(self.b.name)}"]
        warnings = [f"WARNING: {one_line(warning, 200)}" for warning in self.warnings]
        table = aligned([CELLS, *(row.cells for row in self.rows)], left=(0, 5))
        return "".join(f"{line}\n" for line in [*names, *warnings, "", *table])


def compare(
    run_a: Run,
    records_a: Sequence[Record],
    run_b: Run,
    records_b: Sequence[Record],
    names: tuple[str, str] = ("A", "B"),
) -> Comparison:
    """Of run B against run A."""
    sides = [
        _Measured.of(run, records, name)
        for run, records, name in ((run_a, records_a, names[0]), (run_b, records_b, names[1]))
    ]
    a, b = sides
    rows = [
        row_of(
            f"{title} {name}, ms",
            Kind.LATENCY,
            a.figure(key, name),
            b.figure(key, name),
            a.drawn(key),
            b.drawn(key),
            name,
        )
        for key, title in _LATENCIES.items()
        for name in _FIGURES
    ]
    for title, key, kind in (
        ("requests/s", "requests_per_s", Kind.RATE),
        ("output tokens/s", "tokens_per_s", Kind.RATE),
        ("goodput, requests/s", "goodput_per_s", Kind.RATE),
        ("goodput, share", "goodput_share", Kind.GOOD_SHARE),
        ("errors, share", "errors_share", Kind.BAD_SHARE),
    ):
        rows.append(row_of(title, kind, a.rates[key], b.rates[key], a.shares[key], b.shares[key], "mean"))
    return Comparison(a.side, b.side, rows, _warnings(run_a, a, run_b, b))


@dataclass(frozen=True)
class _Measured:
    """rates: figures by name. shares: what each was the mean of, a value for each interval or request."""

    side: Side
    gaps_s: Sequence[Floats]
    rates: Mapping[str, float | None]
    shares: Mapping[str, Floats]

    @classmethod
    def of(cls, run: Run, records: Sequence[Record], name: str) -> "_Measured":
        summary = summarize(run, records)
        ours = measured(run, records)
        finished = [record for record in ours if record.code != CANCELLED]
        edges = edges_of(run.warm_up_s, run.warm_up_s + measured_s(run, records))
        flow, widths = Flow(records, run.slo), np.diff(edges)
        return cls(
            Side(name, summary, latencies_s(ours)),
            [np.asarray(record.gaps_s) for record in ours if record.is_ok and record.gaps_s],
            {
                "requests_per_s": summary["requests_per_s"],
                "tokens_per_s": summary["tokens_per_s"]["total"],
                "goodput_per_s": summary["goodput"]["requests_per_s"],
                "goodput_share": summary["goodput"]["share"],
                "errors_share": summary["errors"]["share"],
            },
            {
                "requests_per_s": flow.successes(edges) / widths,
                "tokens_per_s": flow.tokens(edges) / widths,
                "goodput_per_s": flow.good(edges) / widths,
                "goodput_share": np.asarray([run.slo.is_met(record) for record in finished], dtype=np.float64),
                "errors_share": np.asarray([record.is_failed for record in finished], dtype=np.float64),
            },
        )

    def figure(self, key: str, name: str) -> float | None:
        """Of the summary, in ms."""
        value: float | None = self.side.summary[key][name]
        return value

    def drawn(self, key: str) -> Floats | Sequence[Floats]:
        """What is resampled: gaps of one request belong together."""
        return self.gaps_s if key == "itl" else self.side.samples_s[key]


def _warnings(run_a: Run, a: _Measured, run_b: Run, b: _Measured) -> list[str]:
    found = [
        f"{one.side.name} is not valid: {reason}" for one in (a, b) for reason in one.side.summary["invalid_because"]
    ]
    for key in sorted({*run_a.settings, *run_b.settings} - _HARMLESS):
        values = [plain(run.settings.get(key)) for run in (run_a, run_b)]
        if values[0] != values[1]:
            found.append(f"{key} differs: {values[0]!r} and {values[1]!r}")
    for title, what in (
        ("the loop (open or closed)", (run_a.is_open, run_b.is_open)),
        ("the warm-up, s,", (run_a.warm_up_s, run_b.warm_up_s)),
        ("the measured time, s,", (run_a.duration_s, run_b.duration_s)),
        ("the objective", (dict(run_a.slo.limits_s), dict(run_b.slo.limits_s))),
        ("the wanted load", (list(run_a.levels), list(run_b.levels))),
        ("the machine", (plain(run_a.machine), plain(run_b.machine))),
    ):
        if what[0] != what[1]:
            found.append(f"{title} differs: {what[0]!r} and {what[1]!r}")
    return found
