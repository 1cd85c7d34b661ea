"""Ends a server whose `serve` was killed: run as a process of its own, it waits for `serve` to be gone.

    python -m trireme_ops.guardian SESSION SHM_PREFIX

Its standard input is a pipe from `serve`; the end of it, however it came, is the signal. The server's session gets
SIGTERM, some seconds, and SIGKILL; then its shared memory is removed. After an orderly end there is nothing left to do.
"""

import os
import signal
import sys
import time

from . import processes

GRACE_S = 8.0


def end(session: int, prefix: str, grace_s: float) -> None:
    """End the session and remove its shared memory."""
    if session in processes.session_members(session):
        os.kill(session, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while session in processes.session_members(session) and time.monotonic() < deadline:
        time.sleep(0.05)
    # Stubs end soon after their server, if they can.
    processes.clear_session(session, prefix, grace_s=min(2, max(0, deadline - time.monotonic())))


def main() -> None:
    session, prefix = int(sys.argv[1]), sys.argv[2]
    while os.read(0, 4096):
        pass
    end(session, prefix, GRACE_S)


if __name__ == "__main__":
    main()
