"""How figures are written, and how sure they are."""

import math


def significant(value: float, digits: int = 3) -> str:
    """Rounded to so many significant digits, never in powers of ten."""
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, places):,.{max(0, places)}f}"


def size(value_bytes: float) -> str:
    """In kB, MB or GB, of 1000 each."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if value_bytes >= 0.9995 * factor:
            return f"{significant(value_bytes / factor)} {unit}"
    return f"{significant(value_bytes / 1e3)} kB"


def percent(share: float) -> str:
    """With one decimal; all and nothing are said only of all and nothing."""
    text = f"{100 * share:.1f}"
    if (text == "100.0" and share < 1) or (text == "0.0" and share > 0):
        text = f"{100 * share:.1g}" if share < 0.5 else ">\N{NO-BREAK SPACE}99.9"
    return f"{text}\N{NO-BREAK SPACE}%"


def ratio(value: float, to: float) -> str:
    """How many times `to`."""
    return f"{significant(value / to)}×"


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count` answers (Wilson 1927)."""
    z2 = 1.96**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = 1.96 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    # Rounded: at all or nothing one end is exactly that.
    return max(0.0, round(middle - half, 12)), min(1.0, round(middle + half, 12))
