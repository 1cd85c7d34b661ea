"""A run over time, request by request: errors, and who answered how fast."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from ..record import Record
from ..timeline import edges_of, ttft_by_interval
from .charts import is_wide, known, latency_unit, legend, logarithmic, name_of, panels, shade_warm_up, time_axis
from .html import Chart
from .numbers import significant
from .palette import COLOURS, MARKERS
from .svg import chart_style, to_svg

#: More points than these are not drawn one by one.
MOST_POINTS = 5000

#: More codes or releases than these are drawn as one, or not at all.
_MOST_NAMES = 6

_OTHERS = "others"


def errors_over_time(summary: Mapping[str, Any], records: Sequence[Record]) -> Chart | None:
    """By code, where they ended; None if nothing failed."""
    failed = [record for record in records if record.is_failed]
    unit, end, warm_up = time_axis(summary)
    edges = edges_of(0.0, end / unit.factor)
    if not failed or not len(edges):
        return None
    codes = sorted({one.code for one in failed}, key=lambda code: -sum(one.code == code for one in failed))
    shown = codes if len(codes) <= _MOST_NAMES else [*codes[: _MOST_NAMES - 1], _OTHERS]
    place = {code: min(index, len(shown) - 1) for index, code in enumerate(codes)}
    counts = [
        np.histogram([one.end_s for one in failed if place[one.code] == index], edges)[0] for index in range(len(shown))
    ]
    with chart_style():
        figure, (axes,) = panels((120,), ("errors",), f"time, {unit.name}", legend_rows=(len(shown) + 1) // 2)
        base = np.zeros(len(edges) - 1)
        for index, (code, count) in enumerate(zip(shown, counts, strict=True)):
            colour = COLOURS[(index + 1) % len(COLOURS)]
            axes.stairs(base + count, edges * unit.factor, baseline=base, fill=True, color=colour, label=name_of(code))
            base = base + count
        axes.set(ylim=(0, max(1.0, base.max()) * 1.12), xlim=(0, end))
        axes.yaxis.get_major_locator().set_params(integer=True)
        shade_warm_up(axes, warm_up)
        legend(axes, columns=2)
        svg = to_svg(figure, "errors")
    said = ", ".join(f"{name_of(code)} {count.sum():,}" for code, count in zip(shown, counts, strict=True))
    return Chart("Errors over time", "By code, by when they came.", Markup(svg), f"How often each error came: {said}")


def ttft_by_request(summary: Mapping[str, Any], records: Sequence[Record], releases: Sequence[str]) -> Chart | None:
    """A point for each request or, if they are too many, the median of each interval; a colour for each release. None
    if there is none, or if they are too many and of one release (their median is drawn already)."""
    good = [one for one in records if one.is_ok and one.ttft_s is not None]
    as_points = len(good) < MOST_POINTS
    if not good or not (as_points or len(releases) > 1):
        return None
    unit, end, warm_up = time_axis(summary)
    names = list(releases[:_MOST_NAMES])
    by_name = [[one for one in good if one.release == name or len(names) == 1] for name in names]
    drawn = [_points(ours) if as_points else _medians(ours, end / unit.factor) for ours in by_name]
    values = np.concatenate([ys[~np.isnan(ys)] for _, ys in drawn])
    if not len(values):
        return None
    shown = latency_unit(float(values.max()))
    rows = (len(names) + 1) // 2 if len(names) > 1 else 0
    with chart_style():
        figure, (axes,) = panels((170,), (f"TTFT, {shown.name}",), f"time, {unit.name}", legend_rows=rows)
        for index, (name, (xs, ys)) in enumerate(zip(names, drawn, strict=True)):
            axes.plot(
                xs * unit.factor,
                ys * shown.factor,
                MARKERS[index],
                linestyle="none" if as_points else "-",
                linewidth=1.2,
                color=COLOURS[index],
                markersize=2.6 if as_points else 3.5,
                markeredgewidth=0,
                label=name_of(name),
            )
        if is_wide(values):
            logarithmic(axes.yaxis, float(values.min()) * shown.factor * 0.8, float(values.max()) * shown.factor * 1.25)
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlim(0, end)
        shade_warm_up(axes, warm_up)
        if len(names) > 1:
            legend(axes, columns=2)
        svg = to_svg(figure, "ttft-requests")
    what = "Each request" if as_points else "The median of each interval"
    by = ", by the release that answered" if len(releases) > 1 else ""
    low, high = (significant(float(value) * shown.factor) for value in (values.min(), values.max()))
    spoken = f"TTFT from {low} to {high} {shown.name}"
    return Chart(f"Time to first token{by}", f"{what}, by when it was to be sent.", Markup(svg), spoken)


def _points(records: Sequence[Record]) -> tuple[Any, Any]:
    """Those that lie on each other are drawn once."""
    rows = {(round(one.intended_s, 2), float(f"{one.ttft_s:.3g}")) for one in records}
    xs, ys = np.asarray(sorted(rows), dtype=np.float64).reshape(-1, 2).T
    return xs, ys


def _medians(records: Sequence[Record], end_s: float) -> tuple[Any, Any]:
    edges = edges_of(0.0, end_s)
    return (edges[:-1] + edges[1:]) / 2, known(ttft_by_interval(records, edges)[0])
