"""How sizes are written, and how sure shares are."""

import math

from trireme_load.report.numbers import significant


def size(value_bytes: float) -> str:
    """In kB, MB or GB, of 1000 each."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if value_bytes >= 0.9995 * factor:
            return f"{significant(value_bytes / factor)} {unit}"
    return f"{significant(value_bytes / 1e3)} kB"


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count` answers (Wilson 1927)."""
    z2 = 1.96**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = 1.96 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    # Rounded: at all or nothing one end is exactly that.
    return max(0.0, round(middle - half, 12)), min(1.0, round(middle + half, 12))
