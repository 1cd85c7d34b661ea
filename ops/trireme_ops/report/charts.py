"""The charts: bars where length counts from zero, dots where it does not, and two figures against each other."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from trireme_load.report.palette import INK, LINE, MUTED, PAPER
from trireme_load.report.svg import chart_style, new_figure, to_svg

from .labels import Label

NOT_MEASURED = "not measured"

_ROW = 36
_LEFT, _RIGHT = 0.29, 0.97


@dataclass(frozen=True)
class Point:
    """A figure of one version, None where there is none, and the range that it lies in, if that is known."""

    value: float | None
    span: tuple[float, float] | None = None
    missing: str = NOT_MEASURED


class LogScale:
    """Places on an axis of decades, with places of their own below for 0 and for what is not measured.

    gap: between those places, as a share of the decades.
    """

    def __init__(self, values: Sequence[float | None], gap: float) -> None:
        known = [math.log10(value) for value in values if value is not None and value > 0]
        self.low = math.floor(min(known) - 0.02) if known else -3
        self.high = max(math.ceil(max(known) + 0.02), self.low + 1) if known else -1
        step = gap * (self.high - self.low)
        self.has_zero = 0 in values
        self.has_missing = None in values
        self._zero = self.low - step
        self._missing = self.low - step * (1 + self.has_zero)

    def at(self, value: float | None) -> float:
        """Where it is drawn."""
        if value is None:
            return self._missing
        return math.log10(value) if value > 0 else self._zero

    @property
    def limits(self) -> tuple[float, float]:
        """Of the axis."""
        return self._missing - 0.06 * (
            self.high - self.low
        ) if self.has_zero or self.has_missing else self.low, self.high

    @property
    def ticks(self) -> tuple[list[float], list[str]]:
        """Where they are, and what stands there."""
        decades = range(self.low, self.high + 1, 1 + (self.high - self.low) // 6)
        ticks = [(float(decade), f"{10.0**decade:g}") for decade in decades]
        if self.has_zero:
            ticks.insert(0, (self._zero, "0"))
        if self.has_missing:
            ticks.insert(0, (self._missing, "not\nmeasured"))
        return [place for place, _ in ticks], [text for _, text in ticks]


def bars(name: str, labels: Sequence[Label], points: Sequence[Point], show: Callable[[float], str]) -> str:
    """A bar each, from zero, with the figure at its end and its span as a thin line."""
    most = max((max(p.value, p.span[1] if p.span else 0) for p in points if p.value is not None), default=0.0) or 1.0
    with chart_style():
        figure, axes = _rows(labels)
        for row, (label, point) in enumerate(zip(labels, points, strict=True)):
            if point.value is None:
                _write(axes, 0, row, point.missing, MUTED)
                continue
            axes.barh(row, point.value, height=0.62, color=label.colour)
            end = point.value
            if point.span:
                end = max(end, point.span[1])
                axes.plot(point.span, (row, row), color=INK, linewidth=1.2, marker="|", markersize=7, clip_on=False)
            _write(axes, end, row, show(point.value), INK)
        axes.set_xlim(0, most * 1.36)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        return to_svg(figure, name)


def dots(
    name: str,
    labels: Sequence[Label],
    points: Sequence[Point],
    show: Callable[[float], str],
    reference: float | None = None,
) -> str:
    """A dot each, on an axis that shows where they differ and need not begin at zero; a dashed line at `reference`."""
    from matplotlib.ticker import MaxNLocator

    values = [point.value for point in points if point.value is not None]
    ends = [end for point in points for end in point.span or ()]
    marks = [*values, *ends, *([reference] if reference is not None else [])]
    low, high = min(marks, default=0.0), max(marks, default=1.0)
    room = (high - low) or 0.02 * abs(high) or 1.0
    with chart_style():
        figure, axes = _rows(labels, axis=True)
        axes.set_xlim(low - 0.12 * room, high + 0.62 * room)
        if reference is not None:
            axes.axvline(reference, color=MUTED, linewidth=1.2, linestyle=(0, (3, 3)))
        for row, (label, point) in enumerate(zip(labels, points, strict=True)):
            _dot(axes, low - 0.12 * room, row, label, point, show, lambda value: value)
        ticks = [tick for tick in MaxNLocator(3).tick_values(low, high) if low - 0.1 * room <= tick <= high + 1e-9]
        axes.set_xticks(ticks, [show(tick) for tick in ticks])
        return to_svg(figure, name)


def log_dots(name: str, labels: Sequence[Label], points: Sequence[Point], show: Callable[[float], str]) -> str:
    """The same on a logarithmic axis, with a place of its own for 0."""
    scale = LogScale([point.value for point in points if point.value is not None], gap=0.27)
    left, right = scale.limits
    with chart_style():
        figure, axes = _rows(labels, axis=True)
        axes.set_xlim(left, right + 0.45 * (right - left))
        for row, (label, point) in enumerate(zip(labels, points, strict=True)):
            _dot(axes, left, row, label, point, show, scale.at)
        axes.set_xticks(*scale.ticks)
        return to_svg(figure, name)


def against(
    name: str, labels: Sequence[Label], xs: Sequence[Point], ys: Sequence[Point], titles: tuple[str, str]
) -> str:
    """Each version as a point: x from zero, y on a logarithmic axis. Those without an x are left out."""
    scale = LogScale([y.value for y in ys], gap=0.14)
    with chart_style():
        figure = new_figure(300)
        axes = figure.add_axes((0.18, 0.15, 0.76, 0.76))
        axes.set_xlim(0, 1.18 * max((x.value for x in xs if x.value is not None), default=1.0))
        axes.set_ylim(*scale.limits)
        axes.locator_params(axis="x", nbins=5)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axes.set_xlabel(titles[0])
        # Above, not beside it: there is no room for it on a phone.
        axes.set_title(titles[1], loc="left", x=-0.2, fontsize="medium", color=MUTED)
        axes.set_yticks(*scale.ticks)
        axes.tick_params(length=0, labelcolor=MUTED)
        axes.grid(linewidth=0.8)
        placed: list[Any] = []
        drawn = [(label, x.value, scale.at(y.value)) for label, x, y in zip(labels, xs, ys, strict=True) if x.value]
        for label, x, y in drawn:
            axes.plot(x, y, label.marker, color=label.colour, markersize=10, markeredgecolor=PAPER, zorder=3)
            px, py = axes.transData.transform((x, y))
            placed.append((px - 6, py - 6, px + 6, py + 6))
        for label, x, y in drawn:
            placed.append(_place(figure, axes, x, y, label.brief, placed))
        return to_svg(figure, name)


def _rows(labels: Sequence[Label], axis: bool = False) -> tuple[Any, Any]:
    """A figure with a row for each label, the first on top."""
    bottom = 24 if axis else 4
    height = _ROW * len(labels) + bottom
    figure = new_figure(height)
    axes = figure.add_axes((_LEFT, bottom / height, _RIGHT - _LEFT, 1 - bottom / height))
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), [label.short for label in labels], linespacing=1.25)
    axes.tick_params(length=0)
    if axis:
        axes.grid(axis="x", linewidth=0.8)
        axes.spines["bottom"].set_visible(False)
    return figure, axes


def _dot(
    axes: Any,
    left: float,
    row: int,
    label: Label,
    point: Point,
    show: Callable[[float], str],
    place: Callable[[float], float],
) -> None:
    if point.value is None:
        _write(axes, left, row, point.missing, MUTED)
        return
    x = place(point.value)
    axes.plot((left, x), (row, row), color=LINE, linewidth=2, zorder=1)
    end = x
    if point.span:
        span = [place(value) for value in point.span]
        axes.plot(span, (row, row), color=INK, linewidth=1.2, marker="|", markersize=7, zorder=2)
        end = max(x, span[1])
    axes.plot(x, row, label.marker, color=label.colour, markersize=10, markeredgecolor=PAPER, zorder=3)
    _write(axes, end, row, show(point.value), INK, 9)


def _write(axes: Any, x: float, row: int, text: str, colour: str, gap: int = 5) -> None:
    behind = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}
    note = axes.annotate(text, (x, row), (gap, 0), textcoords="offset points", va="center", color=colour, bbox=behind)
    note.set(annotation_clip=False, zorder=2)


def _place(figure: Any, axes: Any, x: float, y: float, text: str, taken: Sequence[Any]) -> Any:
    """Write beside a point where nothing else is, as far as there is such a place; the box that it takes."""
    note = axes.annotate(text, (x, y), (0, 0), textcoords="offset points", color=INK, zorder=4)
    frame = axes.get_window_extent()
    best: tuple[float, Any, Any] | None = None
    for dx, dy, ha, va in (
        (9, 0, "left", "center"),
        (-9, 0, "right", "center"),
        (0, 9, "center", "bottom"),
        (0, -9, "center", "top"),
        (9, 9, "left", "bottom"),
        (9, -9, "left", "top"),
        (-9, 9, "right", "bottom"),
        (-9, -9, "right", "top"),
    ):
        note.set(position=(dx, dy), ha=ha, va=va)
        extent = note.get_window_extent(figure.canvas.get_renderer())
        box = (extent.x0, extent.y0, extent.x1, extent.y1)
        outside = max(0.0, frame.x0 - box[0]) + max(0.0, box[2] - frame.x1) + max(0.0, frame.y0 - box[1])
        cost = 1000 * outside + sum(_overlap(box, other) for other in taken)
        if best is None or cost < best[0] - 1e-9:
            best = cost, box, (dx, dy, ha, va)
    assert best is not None
    dx, dy, ha, va = best[2]
    note.set(position=(dx, dy), ha=ha, va=va)
    return best[1]


def _overlap(one: Any, other: Any) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return float(max(0.0, width) * max(0.0, height))
