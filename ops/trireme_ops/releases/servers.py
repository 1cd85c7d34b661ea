"""The servers that a release goes to, locked together: all that answer, or none."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..errors import OperatorError
from .control import Address, Control, Unreachable
from .events import Event, Tell
from .fleet import Fleet
from .settle import settle


def controls_of(fleet: Fleet) -> list[Control]:
    """The servers of a fleet. Raises OperatorError for a control key that cannot be read."""
    return [Control(Address.parse(server.control, server.name), server.key()) for server in fleet.servers]


@dataclass
class Servers:
    """Those that are there. missing: the names of those that were not, or died meanwhile.

    settled_back: the names of those where a promotion was found half done, and taken back.
    """

    there: list[Control] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    settled_back: list[str] = field(default_factory=list)

    def drop(self, server: Control, why: str, tell: Tell) -> None:
        """Go on without a server. Raises OperatorError if it was the last."""
        if server in self.there:
            self.there.remove(server)
            self.missing.append(server.name)
            tell(
                Event("warning", "skip", f"goes on without it: {why}; trireme release apply catches it up", server.name)
            )
        if not self.there:
            raise OperatorError(f"no server is left: {why}")


@contextmanager
def locked(controls: Sequence[Control], purpose: str, tell: Tell) -> Iterator[Servers]:
    """Hold the locks of all servers that answer, each settled first; those that do not answer are left out.

    Raises OperatorError if none answers, ActRefused naming who holds a lock, and OperatorError where what was left by
    another cannot be settled.
    """
    servers = Servers()
    try:
        for control in controls:
            try:
                found = control.lock(purpose)
            except Unreachable as error:
                servers.missing.append(control.name)
                tell(Event("warning", "skip", str(error), control.name))
                continue
            servers.there.append(control)
            if found is not None and settle(control, found, tell) != found["release"]:
                servers.settled_back.append(control.name)
        if not servers.there:
            raise OperatorError(f"no server answers; tried {', '.join(control.name for control in controls)}")
        yield servers
    finally:
        for control in controls:
            control.unlock()
