"""What the ledger says of a month: sums by tenant, key, model or version, and by day."""

import csv
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

import numpy as np
from sqlalchemy import Connection, case, func, select

from ..accounts.clock import month_bounds_s
from ..accounts.database import keys, ledger
from ..accounts.quota import NANO
from ..errors import SettingError
from .writer import lost_rows

#: What can be reported by: the columns that make up a group's name.
GROUPS = {
    "tenant": (ledger.c.tenant,),
    "key": (ledger.c.key_id,),
    "model": (ledger.c.model,),
    "version": (ledger.c.model, ledger.c.release, ledger.c.version),
}

_DAY_MS = 86_400_000

#: What stands where a name is empty: nobody showed a key, nothing answered.
NOBODY = "-"


@dataclass(frozen=True)
class Month:
    """A month of UTC, as times in ms. days: how many it has."""

    name: str
    since_ms: int
    until_ms: int

    @property
    def days(self) -> int:
        """How many it has."""
        return (self.until_ms - self.since_ms) // _DAY_MS


def month(text: str) -> Month:
    """Of 2026-11. Raises SettingError."""
    found = re.fullmatch(r"(\d{4})-(0[1-9]|1[0-2])", text)
    if found is None or not 1970 <= int(found[1]) <= 9998:
        raise SettingError(f"--month {text[:20]!r}: a month is needed, such as 2026-11")
    since, until = month_bounds_s(text)
    return Month(text, 1000 * since, 1000 * until)


@dataclass
class Line:
    """The sums of one group. cost: in units of the currency. ttft_ms: p50 and p95, where anything was answered."""

    name: str
    requests: int = 0
    errors: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    cost: float = 0.0
    ttft_ms: tuple[float, float] | None = None
    cost_by_day: list[float] = field(default_factory=list)
    tokens_by_day: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """by: what its lines are of; the dearest comes first. lost: rows that are missing."""

    by: str
    month: Month
    currency: str
    lines: Sequence[Line]
    lost: int


def _name(by: str, values: Sequence[str], names: dict[str, str]) -> str:
    if by == "key":
        label = names.get(values[0])
        return f"{values[0]} ({label})" if label else values[0] or NOBODY
    return " ".join(value for value in values if value) or NOBODY


def make_report(connection: Connection, by: str, of: Month, currency: str) -> Report:
    """From the ledger. by: one of GROUPS."""
    group = GROUPS[by]
    within = (ledger.c.time_ms >= of.since_ms) & (ledger.c.time_ms < of.until_ms)
    day = ((ledger.c.time_ms - of.since_ms) // _DAY_MS).label("day")
    columns = [
        func.count(),
        func.sum(case((ledger.c.status >= 400, 1), else_=0)),
        *(func.sum(column) for column in (ledger.c.tokens_in, ledger.c.tokens_out, ledger.c.tokens_cached)),
        # In floats: a month of many rows may not fit into 64 bits.
        func.sum(ledger.c.cost_nano * 1.0),
    ]
    names = {row.id: row.name for row in connection.execute(select(keys.c.id, keys.c.name))}
    lines: dict[str, Line] = {}
    for row in connection.execute(select(*group, day, *columns).where(within).group_by(*group, day)):
        values, number, sums = row[: len(group)], int(row[len(group)]), row[len(group) + 1 :]
        name = _name(by, values, names)
        line = lines.setdefault(name, Line(name, cost_by_day=[0.0] * of.days, tokens_by_day=[0] * of.days))
        requests, errors, tokens_in, tokens_out, tokens_cached, cost_nano = sums
        line.requests += int(requests)
        line.errors += int(errors)
        line.tokens_in += int(tokens_in)
        line.tokens_out += int(tokens_out)
        line.tokens_cached += int(tokens_cached)
        line.cost += float(cost_nano) / NANO
        line.cost_by_day[number] += float(cost_nano) / NANO
        line.tokens_by_day[number] += int(tokens_in) + int(tokens_out)
    waits: dict[str, list[float]] = defaultdict(list)
    answered = select(*group, ledger.c.ttft_ms).where(within & ledger.c.ttft_ms.is_not(None))
    for row in connection.execution_options(yield_per=10_000).execute(answered):
        waits[_name(by, row[:-1], names)].append(row[-1])
    for name, found in waits.items():
        p50, p95 = np.quantile(np.array(found), (0.5, 0.95))
        lines[name].ttft_ms = (float(p50), float(p95))
    ordered = sorted(lines.values(), key=lambda line: (-line.cost, -line.requests, line.name))
    return Report(by, of, currency, ordered, lost_rows(connection, of.since_ms, of.until_ms))


_TITLES = ("requests", "errors", "tokens in", "tokens out", "cached", "cost", "TTFT p50", "TTFT p95")


def cells(report: Report) -> list[list[str]]:
    """As a table: titles, the lines, and where there are several, their sum."""

    def row(line: Line) -> list[str]:
        ttft = [NOBODY, NOBODY] if line.ttft_ms is None else [f"{value:,.0f} ms" for value in line.ttft_ms]
        counts = (line.requests, line.errors, line.tokens_in, line.tokens_out, line.tokens_cached)
        return [line.name, *(f"{count:,}" for count in counts), f"{line.cost:,.4f} {report.currency}", *ttft]

    rows = [[report.by, *_TITLES], *(row(line) for line in report.lines)]
    if len(report.lines) > 1:
        total = Line("all")
        for line in report.lines:
            for name in ("requests", "errors", "tokens_in", "tokens_out", "tokens_cached", "cost"):
                setattr(total, name, getattr(total, name) + getattr(line, name))
        rows.append(row(total))
    return rows


def remark(report: Report) -> str:
    """What is missing, in words; "" where nothing is."""
    if not report.lost:
        return ""
    return f"{report.lost} requests of this month are missing: their gateway was killed, or could not write them."


def write_csv(report: Report, file: TextIO) -> None:
    """Numbers as they are, one line for each group."""
    writer: Any = csv.writer(file, lineterminator="\n")
    titles = ["requests", "errors", "tokens_in", "tokens_out", "tokens_cached", "cost", "currency"]
    writer.writerow(["month", report.by, *titles, "ttft_ms_p50", "ttft_ms_p95"])
    for line in report.lines:
        counts = [line.requests, line.errors, line.tokens_in, line.tokens_out, line.tokens_cached]
        ttft = ["", ""] if line.ttft_ms is None else [f"{value:.3f}" for value in line.ttft_ms]
        # What begins like a formula would be one in a spreadsheet.
        name = f"'{line.name}" if line.name[:1] in "=+@\t" else line.name
        writer.writerow([report.month.name, name, *counts, f"{line.cost:.9f}", report.currency, *ttft])
