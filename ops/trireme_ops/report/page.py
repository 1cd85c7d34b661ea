"""The page: what its template is given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path

from markupsafe import Markup

from trireme_load.report.html import Chart, environment
from trireme_load.report.numbers import percent, significant

from . import charts
from .charts import NOT_MEASURED, Point
from .heat import Heat, heat
from .labels import Label, labels_of
from .numbers import size, wilson
from .speed import MAX_TOKENS, ROUNDS, STREAMS, Machine, Speed
from .table import missing_speed, sections_of, tasks_of
from .versions import ALL, Version


@dataclass(frozen=True)
class HeatCell:
    """A share of a task, or none."""

    text: str
    heat: Heat | None


def render(versions: Sequence[Version], speeds: Sequence[Speed | None], machine: Machine, seconds: float) -> str:
    """The whole page. seconds: how long each measurement took, 0 if there was none."""
    labels = labels_of(versions)
    template = environment(Path(__file__).parent).get_template("page.html.jinja")
    return template.render(
        labels=labels,
        versions=versions,
        sections=sections_of(versions, speeds, seconds > 0),
        trade_offs=_trade_offs(versions, speeds, labels),
        charts=_charts(versions, speeds, labels, seconds > 0),
        heat_rows=_heat_rows(versions),
        lowest=percent(_lowest(versions)),
        notes=_notes(versions),
        machine=machine,
        seconds=seconds,
        rounds=ROUNDS,
        streams=STREAMS,
        max_tokens=MAX_TOKENS,
        tools={name: version_of(name) for name in ("trireme", "openvino-genai")},
    )


def _trade_offs(versions: Sequence[Version], speeds: Sequence[Speed | None], labels: Sequence[Label]) -> list[Chart]:
    """Size and speed against KL, as far as there is a KL at all."""
    kl = [Point(version.accuracy.kl) for version in versions]
    if all(point.value is None for point in kl):
        return []
    sizes = [Point(version.size_bytes / 1e6) for version in versions]
    rates = [Point(speed.tokens_per_s if speed else None) for speed in speeds]
    found = [("size-kl", "Size against accuracy", "Low and left is best.", sizes, "on disk, MB")]
    if any(point.value is not None for point in rates):
        title = f"tokens/s, {STREAMS} streams"
        found.append(("speed-kl", "Speed against accuracy", "Low and right is best.", rates, title))
    return [
        Chart(
            title,
            hint + (" Versions without a speed are left out." if None in [x.value for x in xs] else ""),
            Markup(charts.against(name, labels, xs, kl, (axis, "KL from its source, nats"))),
            "; ".join(
                f"{label.title}, {label.subtitle}: {significant(x.value)} {axis}, KL {_said(y, significant)}"
                for label, x, y in zip(labels, xs, kl, strict=True)
                if x.value is not None
            ),
        )
        for name, title, hint, xs, axis in found
    ]


def _charts(
    versions: Sequence[Version], speeds: Sequence[Speed | None], labels: Sequence[Label], was_measured: bool
) -> list[Chart]:
    """One figure each."""
    accuracy = [version.accuracy for version in versions]
    none = [missing_speed(version, was_measured) for version in versions]
    rates = [
        Point(speed.tokens_per_s, speed.tokens_per_s_range) if speed else Point(None, missing=word)
        for speed, word in zip(speeds, none, strict=True)
    ]
    first = [
        Point(speed.ttft_ms, speed.ttft_ms_range) if speed else Point(None, missing=word)
        for speed, word in zip(speeds, none, strict=True)
    ]
    matches = [
        Point(a.overall, wilson(a.overall, a.answers) if a.overall is not None and a.answers else None)
        for a in accuracy
    ]
    sources = {a.source_perplexity for a in accuracy} - {None}
    source = sources.pop() if len(sources) == 1 else None
    ppl_hint = "Lower is better." + (" Dashed: the source." if source is not None else "")

    def chart(
        name: str,
        title: str,
        hint: str,
        points: Sequence[Point],
        show: Callable[[float], str],
        draw: Callable[..., str],
        reference: float | None = None,
    ) -> Chart:
        more = {} if reference is None else {"reference": reference}
        spoken = "; ".join(
            f"{label.title}, {label.subtitle}: {_said(point, show)}"
            for label, point in zip(labels, points, strict=True)
        )
        return Chart(title, hint, Markup(draw(name, labels, points, show, **more)), spoken)

    def perplexity(value: float) -> str:
        return significant(value, 4)

    return [
        chart("size", "On disk", "Less is better.", [Point(v.size_bytes) for v in versions], size, charts.bars),
        chart(
            "speed",
            f"Tokens/s, {STREAMS} streams",
            "More is better. Line: slowest to fastest round.",
            rates,
            significant,
            charts.bars,
        ),
        chart(
            "ttft",
            "Time to first token, ms, 1 stream",
            "Less is better. Line: lowest to highest round.",
            first,
            significant,
            charts.bars,
        ),
        chart(
            "kl",
            "KL from its source, nats",
            "Less is better. Logarithmic.",
            [Point(a.kl) for a in accuracy],
            significant,
            charts.log_dots,
        ),
        chart(
            "top1",
            "Top-1: same likeliest token as its source",
            "More is better. The axis need not begin at 0.",
            [Point(a.top1) for a in accuracy],
            percent,
            charts.dots,
        ),
        chart(
            "perplexity",
            "Perplexity",
            f"{ppl_hint} The axis need not begin at 0.",
            [Point(a.perplexity) for a in accuracy],
            perplexity,
            charts.dots,
            source,
        ),
        chart(
            "match",
            "Exact match, all answers",
            "More is better. Line: 95 % interval. The axis need not begin at 0.",
            matches,
            percent,
            charts.dots,
        ),
    ]


def _said(point: Point, show: Callable[[float], str]) -> str:
    return point.missing if point.value is None else show(point.value)


def _lowest(versions: Sequence[Version]) -> float:
    return min((share for version in versions for share in version.accuracy.exact_match.values()), default=0.0)


def _heat_rows(versions: Sequence[Version]) -> list[tuple[str, list[HeatCell]]]:
    """A row for each task and one for all; none where exact match was not measured by task."""
    tasks = tasks_of(versions)
    lowest = _lowest(versions)
    rows = []
    for task in [*tasks, ALL] if tasks else []:
        shares = [version.accuracy.exact_match.get(task) for version in versions]
        cells = [
            HeatCell(NOT_MEASURED, None) if share is None else HeatCell(percent(share), heat(share, lowest))
            for share in shares
        ]
        rows.append(("all tasks" if task == ALL else task, cells))
    return rows


def _notes(versions: Sequence[Version]) -> list[str]:
    """What keeps figures from being comparable."""
    found = []
    if len({version.model for version in versions}) > 1:
        found.append("These are versions of different models.")
    measured = [version.accuracy for version in versions if version.accuracy.kl is not None]
    if len({accuracy.tokens for accuracy in measured}) > 1:
        found.append("KL, top-1 and perplexity were not measured over equally many tokens: compare them with care.")
    sources = [a.source_perplexity for a in measured if a.source_perplexity is not None]
    if sources and max(sources) > 1.001 * min(sources):
        found.append(
            "The sources' perplexities differ: different sources, or measured on different texts. Compare with care."
        )
    if len({version.accuracy.answers for version in versions if version.accuracy.overall is not None}) > 1:
        found.append("Exact match is not over equally many answers.")
    return found
