"""Times and months as they are kept: ms since 1970, and months of UTC by their names, such as 2026-11."""

import calendar
import time


def now_ms() -> int:
    """The system's clock."""
    return int(1000 * time.time())


def month_of(time_s: float) -> str:
    """The month of a time."""
    return time.strftime("%Y-%m", time.gmtime(time_s))


def month_bounds_s(month: str) -> tuple[int, int]:
    """When a month begins, and when the next one does, in s since 1970."""
    year, number = map(int, month.split("-"))
    next_month = (year + 1, 1) if number == 12 else (year, number + 1)
    begins, ends = (calendar.timegm((*first, 1, 0, 0, 0)) for first in ((year, number), next_month))
    return begins, ends
