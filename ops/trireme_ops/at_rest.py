"""Waiting until nothing is under way any more."""

import time
from collections.abc import Callable

#: For how long nothing may change until something counts as at rest: gauges come a moment late.
_REST_S = 0.5
_POLL_S = 0.05


def wait_for_rest(count: Callable[[], tuple[float, float]], timeout_s: float, wanted: Callable[[], bool]) -> bool:
    """Wait until nothing runs and nothing happens; False after `timeout_s`, or when nobody wants it any more.

    count: how much runs, and how much has happened so far. What it raises comes through.
    """
    deadline = time.monotonic() + timeout_s
    seen: tuple[float, float] | None = None
    rest_since = time.monotonic()
    while time.monotonic() < deadline and wanted():
        now = count()
        if now[0] or now != seen:
            rest_since = time.monotonic()
        elif time.monotonic() - rest_since > _REST_S:
            return True
        seen = now
        time.sleep(_POLL_S)
    return False
