"""The loop of a process in which an engine computes, whatever engine it is.

The process is started by `child_engine` with the number of an inherited socket; takes EngineSettings and the folder,
then ("submit", EngineRequest, ...), ("cancel", key) and ("tell", EngineEvent), which it sends back; sends lists of
EngineStep fields; and ends when the other side closes the socket, however that happens.
"""

import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from .base import EngineEvent, EngineLimits, EngineRequest, EngineSettings, EngineStep


class Generator(Protocol):
    """Continuous batching: requests join and leave between steps."""

    limits: EngineLimits

    @property
    def idle(self) -> bool:
        """Whether there is nothing to compute."""

    def submit(self, request: EngineRequest, *further: Any) -> list[EngineEvent]:
        """Add a request; events only where it is refused."""

    def cancel(self, key: int) -> list[EngineEvent]:
        """Drop a request, if it is there."""

    def step(self) -> EngineStep:
        """Compute one step of all active requests."""

    def settle(self) -> None:
        """Let go of what was cancelled, when nothing else is active."""


#: Starts an engine on the model in a folder.
StartGenerator = Callable[[Path, EngineSettings], Generator]


def send_step(connection: Connection, step: EngineStep) -> None:
    """Send a step as a plain tuple: it is pickled several times as fast as the dataclass."""
    connection.send((step.keys, step.ids, step.events, step.kv_blocks_used))


def receive_step(message: Any) -> EngineStep:
    """The step that `send_step` sent."""
    return EngineStep(*message)


def serve(connection: Connection, generator: Generator) -> None:
    """Step while there is work and wait while there is none, until the other side closes `connection`."""
    while True:
        events: list[EngineEvent] = []
        while generator.idle or connection.poll():
            if generator.idle:
                generator.settle()
                if events:
                    send_step(connection, EngineStep(events=events))
                    events = []
            kind, *arguments = connection.recv()
            if kind == "submit":
                events += generator.submit(*arguments)
            elif kind == "cancel":
                events += generator.cancel(*arguments)
            else:
                events += arguments
        step = generator.step()
        if events:
            step = EngineStep(step.keys, step.ids, [*events, *step.events], step.kv_blocks_used)
        if step.keys or step.events:
            send_step(connection, step)


def run(start: StartGenerator) -> None:
    """The whole life of the process."""
    connection = Connection(int(sys.argv[1]))
    try:
        folder, settings = connection.recv()
        try:
            generator = start(folder, settings)
        except Exception as error:
            connection.send(error if type(error) in (ValueError, RuntimeError) else RuntimeError(repr(error)))
            return
        connection.send(generator.limits)
        serve(connection, generator)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
