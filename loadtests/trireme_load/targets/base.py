"""What every target offers."""

from typing import Protocol

from trireme_client import Generation

from .answer import Answer


class Target(Protocol):
    """A connection to one server, for one user at a time."""

    def ask(self, model: str, generation: Generation, stream: bool, answer: Answer) -> None:
        """Ask, and fill in the answer as it comes. Raises a TriremeError; what came until then stays in the answer."""

    def close(self) -> None:
        """Close the connection."""
