"""Starts a Python module as a child process that is spoken to over a socket."""

import socket
import subprocess
import sys
from multiprocessing.connection import Connection


def start_child(module: str, stderr: int | None = None) -> tuple["subprocess.Popen[bytes]", Connection]:
    """Run `module` with the number of an inherited socket as its argument; the process, and this side's connection.

    The child sees the end of its socket when this process ends, however that happens.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stderr=stderr,
        )
    return process, Connection(ours.detach())
