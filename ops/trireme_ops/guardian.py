"""Ends a server whose `serve` was killed: run as a process of its own, it waits for `serve` to be gone.

    python -m trireme_ops.guardian SESSION SHM_PREFIX

Its standard input is a pipe from `serve`; the end of it, however it came, is the signal. The server is killed, its
stubs get a moment to end by themselves, and its shared memory is removed. After an orderly end nothing is left to do.
"""

import os
import signal
import sys

from . import processes

#: How long stubs may take to see that their server is gone.
GRACE_S = 2.0


def end(session: int, prefix: str, grace_s: float) -> None:
    """End the session and remove its shared memory."""
    if session in processes.session_members(session):
        os.kill(session, signal.SIGKILL)
    processes.clear_session(session, prefix, grace_s)


def main() -> None:
    session, prefix = int(sys.argv[1]), sys.argv[2]
    while os.read(0, 4096):
        pass
    end(session, prefix, GRACE_S)


if __name__ == "__main__":
    main()
