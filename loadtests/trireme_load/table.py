"""A summary as text, for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from .report.numbers import percent, significant
from .thresholds import Miss

#: Rows of latencies, by key of the summary, and their columns.
_ROWS = {"ttft": "TTFT", "itl": "ITL", "tpot": "TPOT", "e2e": "E2E", "queue": "queue"}
_COLUMNS = ("mean", "p50", "p90", "p95", "p99", "max")

#: What stands where nothing was measured.
NOTHING = "-"

#: A reason is said whole, unless someone else wrote it.
_MOST_REASON = 300

_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"


def write(summary: Mapping[str, Any], misses: Sequence[Miss], file: TextIO) -> None:
    """Onto a terminal, where what is wrong is bold, or into anything else."""
    file.write(render(summary, misses, bold=file.isatty()))


def render(summary: Mapping[str, Any], misses: Sequence[Miss] = (), bold: bool = False) -> str:
    """Lines, each ended."""
    warnings = [
        f"INVALID: {one_line(reason, _MOST_REASON)}"
        for reason in summary["invalid_because"]
        if not _says_partial(reason)
    ]
    if summary["partial"]:
        warnings.insert(0, f"PARTIAL: the run ended early: {one_line(summary['partial'], _MOST_REASON)}")
    warnings += [f"MISSED: {one_line(str(miss), _MOST_REASON)}" for miss in misses]
    lines = [
        *aligned([["ms", *_COLUMNS], *(_latencies(summary, key, title) for key, title in _ROWS.items())]),
        "",
        *(f"{title:<12}{text}" for title, text in _others(summary)),
        *(f"  {line}" for line in _codes(summary)),
        *([""] if warnings else []),
        *(f"{_BOLD}{line}{_PLAIN}" if bold else line for line in warnings),
    ]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _says_partial(reason: str) -> bool:
    return reason.startswith("the run ended early: ")


def _latencies(summary: Mapping[str, Any], key: str, title: str) -> list[str]:
    return [title, *(figure(summary[key][column]) for column in _COLUMNS)]


def _others(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    requests, tokens, goodput, errors = (summary[key] for key in ("requests", "tokens_per_s", "goodput", "errors"))
    cancelled = f", {requests['cancelled']:,} cancelled" if requests["cancelled"] else ""
    slo = ", ".join(f"{name} {limit:g} ms" for name, limit in goodput["slo"].items())
    good = f"{figure(goodput['requests_per_s'])}/s; {_percent(goodput['share'])} of requests ({slo})"
    sent = f"{requests['sent']:,} sent in {summary['measured_s']:g} s"
    ended = f"{requests['succeeded']:,} succeeded, {requests['failed']:,} failed{cancelled}"
    return [
        ("requests", f"{figure(summary['requests_per_s'])}/s answered; {sent}, {ended}"),
        ("tokens", f"{figure(tokens['total'])}/s; per user {figure(tokens['per_user']['p50'])}/s (p50)"),
        ("goodput", good if slo else f"{NOTHING} (no --slo)"),
        ("errors", f"{errors['count']:,}; {_percent(errors['share'])} of requests"),
    ]


def _codes(summary: Mapping[str, Any]) -> list[str]:
    rows = [
        [one_line(code), f"{error['count']:,}", one_line(error["example"])]
        for code, error in summary["errors"]["by_code"].items()
    ]
    return aligned(rows, left=(0, 2))


def figure(value: float | None) -> str:
    """As it stands in a table."""
    return NOTHING if value is None else significant(value)


def _percent(share: float | None) -> str:
    return NOTHING if share is None else percent(share).replace("\N{NO-BREAK SPACE}", " ")


def one_line(text: str, most: int = 100) -> str:
    """What a server said, so that it can do nothing to the terminal: on one line, and no longer than `most`."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def aligned(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """Columns as wide as their widest cell, two spaces apart; those in `left` begin, the others end together."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
