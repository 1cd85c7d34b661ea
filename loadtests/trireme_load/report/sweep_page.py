"""The page of a sweep."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from ..definitions import DEFINITIONS
from ..sweep import LEAST_GAIN
from ..table import figure
from .charts import known, panels, plain_number
from .html import Chart, environment
from .page import Card, Section, verdict
from .palette import COLOURS, INK, MARKERS, MUTED, PAPER
from .svg import chart_style, to_svg
from .tables import Table, facts, share

#: A step: users or requests/s, and the summary of the run at that load.
Step = tuple[float, Mapping[str, Any]]


def sweep_page(steps: Sequence[Step], knee: int | None) -> str:
    """One HTML file that refers to nothing outside it. knee: index of a step, as sweep.knee finds it."""
    level = "Requests/s wanted" if steps and steps[0][1]["open_loop"] else "Users"
    bad = [(at, summary) for at, summary in steps if not summary["valid"]]
    sections = []
    if steps:
        sections = [
            Section("Curves", _charts(steps, knee, level)),
            Section("Figures", (), [_table(steps, knee, level)], "Latencies are in ms."),
            Section("How this was measured", (), [facts("Setting", steps[0][1]["settings"])], "Of the first step."),
        ]
    return (
        environment()
        .get_template("run.html.jinja")
        .render(
            title=f"Load test: a sweep of {len(steps)} levels",
            started=steps[0][1]["started"] if steps else "never",
            measured=f"{steps[0][1]['measured_s']:g} s at each level" if steps else "no time",
            warm_up=f"{steps[0][1]['warm_up_s']:g} s" if steps else "none",
            loop="open loop" if level != "Users" else "closed loop",
            verdict=verdict(bad[0][1]) if bad else "",
            reasons=[f"{level} {at:g}: {reason}" for at, summary in bad for reason in summary["invalid_because"]],
            misses=[],
            cards=_cards(steps, knee, level),
            sections=sections,
            definitions=DEFINITIONS,
        )
    )


def _cards(steps: Sequence[Step], knee: int | None, level: str) -> list[Card]:
    rule = f"from here, doubling the load brings less than {100 * LEAST_GAIN:.0f} % more tokens/s"
    if knee is None:
        return [Card("Knee", "not found", "throughput did not flatten as far as was measured")]
    at, summary = steps[knee]
    return [
        Card(f"Knee, {level.lower()}", f"{at:g}", rule),
        Card("Tokens/s there", figure(summary["tokens_per_s"]["total"]), ""),
        Card("TTFT there, p99", f"{figure(summary['ttft']['p99'])} ms", ""),
    ]


def _table(steps: Sequence[Step], knee: int | None, level: str) -> Table:
    columns = (("ttft", "p50"), ("ttft", "p99"), ("tpot", "p50"), ("tpot", "p99"), ("e2e", "p50"), ("e2e", "p99"))
    head = [f"{name.upper()} {column}" for name, column in columns]
    rows = [
        [
            f"{at:g}{' (knee)' if index == knee else ''}{'' if one['valid'] else ' INVALID'}",
            figure(one["tokens_per_s"]["total"]),
            figure(one["requests_per_s"]),
            *(figure(one[name][column]) for name, column in columns),
            figure(one["goodput"]["requests_per_s"]),
            share(one["goodput"]["share"]),
            share(one["errors"]["share"]),
        ]
        for index, (at, one) in enumerate(steps)
    ]
    return Table("Levels", [level, "tokens/s", "requests/s", *head, "goodput/s", "goodput", "errors"], rows)


def _charts(steps: Sequence[Step], knee: int | None, level: str) -> list[Chart]:
    levels = [at for at, _ in steps]
    names = [f"{at:g}" for at in levels]
    tokens = [one["tokens_per_s"]["total"] for _, one in steps]
    requests = [one["requests_per_s"] for _, one in steps]
    good = [one["goodput"]["requests_per_s"] for _, one in steps]
    ttft, e2e = ([one[key]["p99"] for _, one in steps] for key in ("ttft", "e2e"))
    tpot = [one["tpot"]["p50"] for _, one in steps]
    load = level.lower()
    return [
        _curve("load", "Throughput", "More is better.", (load, levels), ("output tokens/s", tokens), knee),
        _curve("trade", "Throughput and latency", f"Left and high is best. At the points: {load}.",
               ("TTFT p99, ms", ttft), ("output tokens/s", tokens), knee, names),
        _curve("stream", "Throughput and speed of an answer", f"Left and high is best. At the points: {load}.",
               ("TPOT p50, ms", tpot), ("output tokens/s", tokens), knee, names),
        _curve("goodput", "Goodput", "Dashed: all requests/s that succeeded. More is better.",
               (load, levels), ("goodput, requests/s", good), knee, also=requests),
        _curve("latency", "Latency", "Less is better.", (load, levels), ("E2E p99, ms", e2e), knee),
    ]  # fmt: skip


def _curve(
    name: str,
    title: str,
    hint: str,
    x: tuple[str, Sequence[float | None]],
    y: tuple[str, Sequence[float | None]],
    knee: int | None,
    labels: Sequence[str] = (),
    also: Sequence[float | None] = (),
) -> Chart:
    xs, ys = known(x[1]), known(y[1])
    with chart_style():
        figure, (axes,) = panels((190,), (y[0],), x[0])
        if also:
            axes.plot(xs, known(also), color=MUTED, linewidth=1.2, linestyle=(0, (3, 2)))
        axes.plot(xs, ys, color=COLOURS[0], linewidth=1.4, marker=MARKERS[0], markersize=6, markeredgecolor=PAPER)
        if knee is not None and not np.isnan(xs[knee] + ys[knee]):
            axes.plot(xs[knee], ys[knee], MARKERS[3], color=COLOURS[1], markersize=9, markeredgecolor=PAPER, zorder=4)
            _write(axes, xs[knee], ys[knee], f"knee{f', {labels[knee]}' if labels else ''}", (8, -13))
        for index, label in enumerate(labels):
            if index != knee and not np.isnan(xs[index] + ys[index]):
                _write(axes, xs[index], ys[index], label, (-5, 5), "right")
        most_x, most_y = (float(np.nanmax(values)) if not np.isnan(values).all() else 1.0 for values in (xs, ys))
        most_y = max([most_y, *(value for value in also if value is not None)])
        axes.set(xlim=(0, most_x * 1.1 or 1), ylim=(0, most_y * 1.15 or 1))
        axes.locator_params(axis="x", nbins=6)
        svg = to_svg(figure, f"sweep-{name}")
    said = "; ".join(
        f"{plain_number(a)}: {plain_number(b)}"
        for a, b in zip(x[1], y[1], strict=True)
        if a is not None and b is not None
    )
    return Chart(title, hint, Markup(svg), f"{x[0]}, and {y[0]}: {said or 'nothing was measured'}")


def _write(axes: Any, x: float, y: float, text: str, offset: tuple[int, int], side: str = "left") -> None:
    note = axes.annotate(text, (x, y), offset, textcoords="offset points", fontsize=10, color=INK, ha=side)
    note.set(annotation_clip=False)
