"""How figures are written."""

import math


def significant(value: float, digits: int = 3) -> str:
    """Rounded to so many significant digits, never in powers of ten."""
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, places):,.{max(0, places)}f}"


def percent(share: float) -> str:
    """With one decimal; all and nothing are said only of all and nothing."""
    text = f"{100 * share:.1f}"
    if (text == "100.0" and share < 1) or (text == "0.0" and share > 0):
        text = f"{100 * share:.1g}" if share < 0.5 else ">\N{NO-BREAK SPACE}99.9"
    return f"{text}\N{NO-BREAK SPACE}%"


def ratio(value: float, to: float) -> str:
    """How many times `to`."""
    return f"{significant(value / to)}×"
