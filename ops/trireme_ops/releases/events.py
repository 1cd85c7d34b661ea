"""What is told of a release on its way: each step's begin and end, for a person, a program, and the audit log."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from .release import now

#: begin: a step that takes a while. done: it ended well. note: something to know. warning: something to act on.
#: failed: why the release does not go live.
Kind = Literal["begin", "done", "note", "warning", "failed"]


@dataclass(frozen=True)
class Event:
    """One step. step: its name, the same for its begin and its end. server: where, if it is at one. at: in UTC."""

    kind: Kind
    step: str
    text: str
    server: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    at: str = field(default_factory=now)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


#: Told of each event as it happens.
Tell = Callable[[Event], None]


def untold(_event: Event) -> None:
    """For whoever does not want to know."""
