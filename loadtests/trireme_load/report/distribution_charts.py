"""How latencies are distributed: a histogram, and the share of requests that were no slower."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from ..statistics import Floats
from .charts import is_wide, latency_unit, legend, logarithmic, name_of, panels
from .html import Chart
from .numbers import significant
from .palette import COLOURS, INK, MUTED
from .svg import chart_style, to_svg

_BINS = 48

#: Where a curve of shares is drawn: evenly, and closer near the end.
_SHARES = np.unique(np.concatenate([np.linspace(0, 1, 101), 1 - np.geomspace(1e-4, 0.05, 40)]))


def distribution(name: str, title: str, values_s: Floats) -> Chart | None:
    """Of latencies in s, with p50 and p99 marked; None of none."""
    if not len(values_s):
        return None
    unit = latency_unit(float(values_s.max()))
    values = values_s * unit.factor
    low, high, wide = _range(values)
    with chart_style():
        figure, (axes,) = panels((120,), ("",), f"{title}, {unit.name}", right=36, legend_rows=1)
        bins = np.geomspace(low, high, _BINS + 1) if wide else np.linspace(low, high, _BINS + 1)
        counts, edges = np.histogram(values, bins)
        axes.stairs(counts, edges, fill=True, color=COLOURS[0], alpha=0.45)
        axes.set_ylim(0, counts.max() * 1.08)
        curve = axes.twinx()
        curve.plot(np.quantile(values, _SHARES), 100 * _SHARES, color=COLOURS[1], linewidth=1.5)
        curve.set_ylim(0, 103)
        curve.set_yticks((0, 50, 100), ("0", "50", "100 %"))
        curve.tick_params(length=0, labelcolor=COLOURS[1], labelsize=10)
        _set_x(axes, low, high, wide)
        for row, share in enumerate((0.5, 0.99)):
            _mark(axes, float(np.quantile(values, share)), f"p{100 * share:.0f}", unit.name, row)
        svg = to_svg(figure, f"distribution-{name}")
    p50, p99 = (significant(float(np.quantile(values, share))) for share in (0.5, 0.99))
    return Chart(
        title,
        "Area: how many. Line: the share that was no slower.",
        Markup(svg),
        f"Of {len(values):,} values half are at most {p50} {unit.name}, and 99 % at most {p99} {unit.name}",
    )


def two_curves(name: str, title: str, samples_s: Sequence[Floats], names: Sequence[str]) -> Chart | None:
    """The share that was no slower, of two runs; None if one has no values."""
    if not all(len(sample) for sample in samples_s):
        return None
    unit = latency_unit(max(float(sample.max()) for sample in samples_s))
    low, high, wide = _range(np.concatenate(samples_s) * unit.factor)
    with chart_style():
        figure, (axes,) = panels((130,), ("share, %",), f"{title}, {unit.name}")
        for index, (sample, run) in enumerate(zip(samples_s, names, strict=True)):
            xs = np.quantile(sample * unit.factor, _SHARES)
            style: Any = ("-", (0, (4, 2)))[index]
            axes.plot(xs, 100 * _SHARES, color=COLOURS[index], linewidth=1.6, linestyle=style, label=name_of(run))
        axes.set_ylim(0, 103)
        _set_x(axes, low, high, wide)
        legend(axes, columns=2)
        svg = to_svg(figure, f"curves-{name}")
    medians = " and ".join(f"{significant(float(np.median(sample)) * unit.factor)} {unit.name}" for sample in samples_s)
    return Chart(title, "The share that was no slower.", Markup(svg), f"Medians of A and B: {medians}")


def _range(values: Floats) -> tuple[float, float, bool]:
    """Of the axis, and whether it is one of decades."""
    low, high = float(values.min()), float(values.max())
    if is_wide(values):
        return low * 0.95, high * 1.05, True
    return 0.0, (high or 1.0) * 1.02, False


def _set_x(axes: Any, low: float, high: float, wide: bool) -> None:
    if wide:
        logarithmic(axes.xaxis, low, high)
    else:
        axes.set_xlim(low, high)
        axes.locator_params(axis="x", nbins=6)


def _mark(axes: Any, value: float, name: str, unit: str, row: int) -> None:
    """A line with its name above, on the side where there is more room; rows keep two names apart."""
    axes.axvline(value, color=(INK, MUTED)[row], linewidth=1.2, linestyle=((0, (4, 2)), (0, (1, 1.5)))[row])
    share = axes.transAxes.inverted().transform(axes.transData.transform((value, 0)))[0]
    side = "left" if share < 0.6 else "right"
    axes.annotate(
        f"{name} {significant(value)} {unit}",
        (value, 1.0),
        ((-2 if side == "left" else 2), 4 + 14 * (1 - row)),
        xycoords=axes.get_xaxis_transform(),
        textcoords="offset points",
        ha=side,
        color=INK,
        fontsize=10,
        annotation_clip=False,
    )
