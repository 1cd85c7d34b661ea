"""The table of all figures: what stands in each of its cells."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from trireme_load.report.numbers import percent, ratio, significant

from .charts import NOT_MEASURED
from .numbers import size, wilson
from .speed import ENGINE, MAX_TOKENS, STREAMS, Speed
from .versions import Version


@dataclass(frozen=True)
class Cell:
    """text: the figure itself, None where there is none. notes: the lines below it."""

    text: str | None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Row:
    """A figure of every version."""

    title: str
    hint: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Section:
    """Rows that belong together."""

    title: str
    rows: Sequence[Row]


def missing_speed(version: Version, was_measured: bool) -> str:
    """What to say of a version without a speed."""
    if was_measured and version.engine != ENGINE:
        return "not measured here"
    return NOT_MEASURED


def sections_of(versions: Sequence[Version], speeds: Sequence[Speed | None], was_measured: bool) -> list[Section]:
    """The whole table."""
    return [
        Section("Size", _size(versions)),
        Section("Speed on this machine", _speed(versions, speeds, was_measured)),
        Section("Accuracy, as published", _accuracy(versions)),
        Section("What it is", _origin(versions)),
    ]


def _size(versions: Sequence[Version]) -> list[Row]:
    return [
        _figures("On disk", "the version's folder", [v.size_bytes for v in versions], size, compared=True),
        _figures("Engine", "engine/ in it", [v.engine_bytes for v in versions], size),
    ]


def _speed(versions: Sequence[Version], speeds: Sequence[Speed | None], was_measured: bool) -> list[Row]:
    none = [missing_speed(version, was_measured) for version in versions]
    return [
        _figures(
            f"Tokens/s, {STREAMS} streams",
            f"answers of {MAX_TOKENS} tokens; higher is better",
            [speed.tokens_per_s if speed else None for speed in speeds],
            significant,
            [_span(speed.tokens_per_s_range if speed else None) for speed in speeds],
            none,
            compared=True,
        ),
        _figures(
            "TTFT, ms, 1 stream",
            "median; lower is better",
            [speed.ttft_ms if speed else None for speed in speeds],
            significant,
            [_span(speed.ttft_ms_range if speed else None) for speed in speeds],
            none,
            compared=True,
        ),
    ]


def _span(ends: tuple[float, float] | None) -> list[str]:
    return [f"rounds: {significant(ends[0])} to {significant(ends[1])}"] if ends else []


def _accuracy(versions: Sequence[Version]) -> list[Row]:
    found = [version.accuracy for version in versions]
    tasks = tasks_of(versions)
    return [
        _figures(
            "KL, nats",
            "from its source; 0 is best",
            [a.kl for a in found],
            significant,
            [[f"over {a.tokens:,} tokens"] if a.kl is not None and a.tokens else [] for a in found],
        ),
        _figures("Top-1", "same likeliest token as its source; 100 % is best", [a.top1 for a in found], percent),
        _figures(
            "Perplexity",
            "lower is better",
            [a.perplexity for a in found],
            partial(significant, digits=4),
            [[f"source: {significant(a.source_perplexity, 4)}"] if a.source_perplexity else [] for a in found],
        ),
        _figures(
            "Exact match", "all answers", [a.overall for a in found], percent, [_sure(version) for version in versions]
        ),
        *(_figures(f"Exact match, {task}", "", [a.exact_match.get(task) for a in found], percent) for task in tasks),
    ]


def tasks_of(versions: Sequence[Version]) -> list[str]:
    """Every task that any of them was measured on, in the manifests' order."""
    return list(dict.fromkeys(task for version in versions for task in version.accuracy.tasks))


def _sure(version: Version) -> list[str]:
    share, answers = version.accuracy.overall, version.accuracy.answers
    if share is None or not answers:
        return []
    low, high = wilson(share, answers)
    return [f"of {answers:,} answers", "95\N{NO-BREAK SPACE}% interval:", f"{percent(low)} to {percent(high)}"]


def _origin(versions: Sequence[Version]) -> list[Row]:
    def texts(title: str, hint: str, read: Callable[[Version], Any], none: str = "not said") -> Row:
        return Row(title, hint, [_said(read(version), none) for version in versions])

    return [
        texts("Quantization", "", lambda v: v.manifest.get("quantization")),
        texts("Weights", "how those are stored that are not quantized", lambda v: v.manifest.get("weights")),
        texts("Arithmetic", "", lambda v: v.manifest.get("arithmetic")),
        texts("Engine", "", lambda v: v.engine),
        texts("Target", "", lambda v: v.manifest.get("target")),
        texts("Recipe", "", lambda v: v.manifest.get("recipe")),
        texts("Checkpoint", "", lambda v: v.checkpoint),
        texts("Tools", "", lambda v: ", ".join(f"{name} {number}" for name, number in v.tools.items()) or None),
        texts("Files", "", lambda v: "as its manifest says (SHA-256)"),
        texts("Signature", "", lambda v: "signed, not checked here" if v.is_signed else "not signed"),
        texts("Folder", "", lambda v: str(v.folder)),
    ]


def _said(value: Any, none: str) -> Cell:
    if value is None or value == "":
        return Cell(None, [none])
    return Cell(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _figures(
    title: str,
    hint: str,
    values: Sequence[float | None],
    show: Callable[[float], str],
    notes: Sequence[Sequence[str]] | None = None,
    none: Sequence[str] | None = None,
    compared: bool = False,
) -> Row:
    """A row of numbers; compared: with the first of them, if there is one."""
    cells = []
    for index, value in enumerate(values):
        if value is None:
            cells.append(Cell(None, [none[index] if none else NOT_MEASURED]))
            continue
        said = list(notes[index]) if notes else []
        if compared and index and values[0]:
            said.insert(0, f"{ratio(value, values[0])} the first")
        cells.append(Cell(show(value), said))
    return Row(title, hint, cells)
