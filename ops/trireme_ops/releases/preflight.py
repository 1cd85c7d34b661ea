"""STUB"""

from typing import Any


def preflight(layout: Any, release: Any) -> list[Any]:
    return []
