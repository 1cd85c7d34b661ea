"""Figures as short words, and series as sparklines. Pure; nothing but ASCII except the blocks of a sparkline."""

from collections.abc import Sequence

from ..releases.watch import Histogram
from .figures import QUANTILES

NONE = "-"

_BLOCKS, _ASCII = "▁▂▃▄▅▆▇█", "_.-=+*#@"


def number(value: float | None) -> str:
    """Three digits that count, or all of a whole number: 0, 0.42, 4.2, 42, 1,234, 1.2M."""
    if value is None:
        return NONE
    if value >= 999_500:
        return f"{value / 1e6:.1f}M"
    if value == 0 or value >= 9.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 0.95 else f"{value:.2f}"


def whole(value: float | None) -> str:
    """A count: 0, 42, 1,234."""
    return NONE if value is None else f"{value:,.0f}"


def percent(share: float | None) -> str:
    """Of a share from 0 to 1; what is above 0 is not shown as 0."""
    if share is None:
        return NONE
    if share == 0 or share >= 0.0995:
        return f"{100 * share:.0f}%"
    return f"{max(0.1, 100 * share):.1f}%"


def milliseconds(seconds: float | None) -> str:
    """In ms, without the unit: 0.3, 4.2, 42, 4,200."""
    if seconds is None:
        return NONE
    value = 1000 * seconds
    return f"{value:.1f}" if value < 9.95 else f"{value:,.0f}"


def quantiles_ms(one: Histogram) -> str:
    """p50/p95/p99 in ms."""
    if not one.count:
        return NONE
    return "/".join(milliseconds(one.quantile(share)) for share in QUANTILES)


def duration(seconds: float) -> str:
    """Such as 4s, 3m, 2h, 5d."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def sparkline(values: Sequence[float | None], width: int, is_ascii: bool) -> str:
    """The last `width` values, from 0 to the largest of them; a blank where there is none."""
    shown = list(values)[-width:] if width > 0 else []
    top = max((value for value in shown if value is not None), default=0.0)
    marks = _ASCII if is_ascii else _BLOCKS
    drawn = ""
    for value in shown:
        if value is None:
            drawn += " "
        else:
            drawn += marks[min(len(marks) - 1, int(value / top * len(marks)))] if top else marks[0]
    return drawn.rjust(max(0, width))


def safe(text: str) -> str:
    """What servers call things, without what a terminal would take for orders."""
    return "".join(character if character.isprintable() else "?" for character in text)
