"""What charts of load tests are made of: panels, axes of time, and units that can be read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..statistics import Floats
from ..table import one_line
from .numbers import significant
from .palette import LINE, MUTED
from .svg import WIDTH, new_figure

#: Of a panel, in units of a chart: left of it, right of it, above it, and below the last one.
_LEFT, _RIGHT, _ABOVE, _BELOW = 44, 10, 24, 34

#: Longer names do not fit into a legend.
_MOST_CHARACTERS = 22


@dataclass(frozen=True)
class Unit:
    """name: what stands at an axis. factor: how many of it are in what is drawn."""

    name: str
    factor: float


def time_unit(length_s: float) -> Unit:
    """Of an axis of time so long."""
    if length_s < 300:
        return Unit("s", 1)
    return Unit("min", 1 / 60) if length_s < 7200 else Unit("h", 1 / 3600)


def time_axis(summary: Mapping[str, Any]) -> tuple[Unit, float, float]:
    """Its unit, and in that the end of a run and of its warm-up."""
    end_s = summary["warm_up_s"] + summary["measured_s"]
    unit = time_unit(end_s)
    return unit, end_s * unit.factor, summary["warm_up_s"] * unit.factor


def latency_unit(most_s: float) -> Unit:
    """Of latencies up to so many s."""
    return Unit("s", 1) if most_s >= 10 else Unit("ms", 1000)


def name_of(text: str) -> str:
    """As it stands in a chart; what a server said can be anything."""
    return one_line(text, _MOST_CHARACTERS) or "not said"


def most(values: Sequence[float | None]) -> str:
    """The largest value, in words."""
    found = [value for value in values if value is not None]
    return significant(max(found)) if found else "nothing"


def known(values: Sequence[float | None]) -> Floats:
    """With NaN where a line is to break off."""
    return np.asarray([np.nan if value is None else value for value in values], dtype=np.float64)


def panels(
    heights: Sequence[float],
    titles: Sequence[str],
    x_title: str,
    right: float = _RIGHT,
    legend_rows: int = 0,
) -> tuple[Any, list[Any]]:
    """A figure and its axes, one below the other with a title each; they share their x, which has ticks at the last one
    only. right: what is kept free there. legend_rows: how many lines above the first one are kept free."""
    above = [_ABOVE + (16 * legend_rows if index == 0 else 0) for index in range(len(heights))]
    total = sum(heights) + sum(above) + _BELOW
    figure = new_figure(total)
    found: list[Any] = []
    top = total
    for height, free, title in zip(heights, above, titles, strict=True):
        top -= free + height
        place = (_LEFT / WIDTH, top / total, (WIDTH - _LEFT - right) / WIDTH, height / total)
        axes = figure.add_axes(place, sharex=found[0] if found else None)
        axes.set_title(title, loc="left", x=-0.115, fontsize=10, color=MUTED, pad=6)
        axes.grid(axis="y", linewidth=0.8)
        axes.tick_params(length=0, labelcolor=MUTED, labelsize=10)
        axes.locator_params(axis="y", nbins=4)
        axes.yaxis.set_major_formatter(plain_number)
        found.append(axes)
    for axes in found[:-1]:
        axes.tick_params(labelbottom=False)
    found[-1].set_xlabel(x_title, fontsize=10)
    found[-1].xaxis.set_major_formatter(plain_number)
    return figure, found


def plain_number(value: float, _: Any = None) -> str:
    """At a tick."""
    return f"{value:,.6g}"


def legend(axes: Any, columns: int = 3) -> None:
    """Above the axes, at the right."""
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.02, 1.0),
        ncols=columns,
        frameon=False,
        borderaxespad=0,
        borderpad=0.3,
        handlelength=1.1,
        handletextpad=0.4,
        columnspacing=0.9,
        labelspacing=0.25,
        fontsize=10,
    )


def shade_warm_up(axes: Any, until: float) -> None:
    """What is not measured lies on grey."""
    if until > 0:
        axes.axvspan(0, until, color=LINE, alpha=0.4, linewidth=0, zorder=0)


def logarithmic(axis: Any, low: float, high: float) -> None:
    """An axis of decades from `low` to `high`, with numbers as people write them."""
    from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

    axis.axes.set(**{f"{axis.axis_name}scale": "log", f"{axis.axis_name}lim": (low, high)})
    steps = (1.0,) if high / low > 300 else (1.0, 3.0) if high / low > 20 else (1.0, 2.0, 5.0)
    ticks = [tick for tick in LogLocator(subs=steps).tick_values(low, high) if low <= tick <= high]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(plain_number)


def is_wide(values: Floats) -> bool:
    """Whether values are so far apart that only an axis of decades shows them all."""
    return bool(len(values)) and float(values.min()) > 0 and float(values.max()) > 15 * float(np.median(values))
