"""How whatever takes long tells how far it is."""

from collections.abc import Callable

#: Told how many of so many steps are done.
Progress = Callable[[int, int], None]


def untold(done: int, total: int) -> None:
    """For whoever does not want to know."""
