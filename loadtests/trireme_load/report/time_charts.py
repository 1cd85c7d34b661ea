"""A run over time, as its summary has it: latency, load and throughput."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from .charts import is_wide, known, latency_unit, legend, logarithmic, most, panels, shade_warm_up, time_axis
from .html import Chart
from .palette import COLOURS, MARKERS, MUTED
from .svg import chart_style, to_svg


def _middles(line: Sequence[Mapping[str, Any]], factor: float) -> list[float]:
    return [(one["t"] + one["width"] / 2) * factor for one in line]


def _load_title(summary: Mapping[str, Any]) -> str:
    return "wanted requests/s" if summary["open_loop"] else "wanted users"


def _wanted(axes: Any, summary: Mapping[str, Any], factor: float) -> None:
    line = summary["timeline"]
    wanted = known([one["wanted"] for one in line])
    edges = [one["t"] * factor for one in line] + [(line[-1]["t"] + line[-1]["width"]) * factor]
    axes.stairs(wanted, edges, color=MUTED, linewidth=1.4, baseline=None)
    axes.set_ylim(0, max(1.0, float(np.nan_to_num(wanted).max()) * 1.15))


def latency_over_time(summary: Mapping[str, Any]) -> Chart:
    """TTFT by interval, and the load that was wanted."""
    line = summary["timeline"]
    unit, end, warm_up = time_axis(summary)
    p50, p99 = (known([one[f"ttft_{name}"] for one in line]) / 1000 for name in ("p50", "p99"))
    drawn = np.concatenate([p50, p99])
    drawn = drawn[~np.isnan(drawn)]
    shown = latency_unit(float(drawn.max()) if len(drawn) else 0)
    with chart_style():
        figure, (top, bottom) = panels((140, 46), (f"TTFT, {shown.name}", _load_title(summary)), f"time, {unit.name}")
        xs = _middles(line, unit.factor)
        for values, name, index in ((p99, "p99", 1), (p50, "p50", 0)):
            colour, marker = COLOURS[index], MARKERS[index]
            top.plot(xs, values * shown.factor, color=colour, marker=marker, markersize=2.4, linewidth=1.3, label=name)
        if is_wide(drawn):
            logarithmic(top.yaxis, float(drawn.min()) * shown.factor * 0.8, float(drawn.max()) * shown.factor * 1.2)
        else:
            top.set_ylim(bottom=0)
        legend(top)
        _wanted(bottom, summary, unit.factor)
        for axes in (top, bottom):
            shade_warm_up(axes, warm_up)
        top.set_xlim(0, end)
        svg = to_svg(figure, "latency")
    highest = [most([one[key] for one in line]) for key in ("ttft_p50", "ttft_p99")]
    return Chart(
        "Time to first token over time",
        "By when requests were to be sent. Grey: the warm-up.",
        Markup(svg),
        f"TTFT by interval: its median was at most {highest[0]} ms, its p99 {highest[1]} ms; below, the wanted load",
    )


def throughput_over_time(summary: Mapping[str, Any]) -> Chart:
    """Tokens/s, requests/s, and requests in flight."""
    line = summary["timeline"]
    unit, end, warm_up = time_axis(summary)
    titles = {"tokens_per_s": "output tokens/s", "requests_per_s": "requests/s", "in_flight": "requests in flight"}
    with chart_style():
        figure, found = panels((70, 60, 60), list(titles.values()), f"time, {unit.name}")
        xs = _middles(line, unit.factor)
        for axes, (key, index) in zip(found, zip(titles, (2, 0, 3), strict=True), strict=True):
            values = known([one[key] for one in line])
            axes.plot(xs, values, color=COLOURS[index], linewidth=1.4)
            axes.fill_between(xs, 0, values, color=COLOURS[index], alpha=0.15, linewidth=0)
            axes.set_ylim(0, max(1e-9, float(np.nan_to_num(values).max())) * 1.12)
            shade_warm_up(axes, warm_up)
        found[0].set_xlim(0, end)
        svg = to_svg(figure, "throughput")
    said = ", ".join(f"{most([one[key] for one in line])} {title}" for key, title in titles.items())
    return Chart("Throughput over time", "Of what was answered.", Markup(svg), f"By interval, at most: {said}")
