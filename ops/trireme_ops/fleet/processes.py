"""The processes of a fleet, which supervisord (https://supervisord.org) starts, watches and stops."""

import contextlib
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from ..errors import OperatorError

_START_S = 10.0
_POLL_S = 0.1


@dataclass(frozen=True)
class ProcessStatus:
    """One of them. state: as supervisord calls it, such as RUNNING, BACKOFF, STOPPED; pid: 0 where there is none."""

    name: str
    state: str
    pid: int
    description: str


class Processes:
    """Those that one supervisord has. Every method but `is_running` raises OperatorError where it does not answer."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def start_supervisor(self, config: Path) -> None:
        """Start supervisord in the background, with every program of its configuration."""
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise OperatorError(f"supervisord did not start: {(done.stderr or done.stdout).strip()[-500:]}")
        deadline = time.monotonic() + _START_S
        while not self.is_running():
            if time.monotonic() > deadline:
                raise OperatorError(f"supervisord did not answer within {_START_S:g} s on {self._socket}")
            time.sleep(_POLL_S)

    def is_running(self) -> bool:
        """Whether supervisord answers."""
        try:
            self._call("getState")
        except OperatorError:
            return False
        return True

    def all(self) -> list[ProcessStatus]:
        """All of them."""
        return [
            ProcessStatus(one["name"], one["statename"], one["pid"], one["description"])
            for one in self._call("getAllProcessInfo")
        ]

    def one(self, name: str) -> ProcessStatus:
        """One of them."""
        for status in self.all():
            if status.name == name:
                return status
        raise OperatorError(f"the fleet has no process {name!r}; it has {', '.join(one.name for one in self.all())}")

    def start(self, name: str) -> None:
        """Start one."""
        self._call("startProcess", name, False)

    def stop(self, name: str) -> None:
        """Stop one, and wait until it has ended."""
        with contextlib.suppress(_NotRunning):
            self._call("stopProcess", name, True)

    def stop_all(self, names: Sequence[str]) -> None:
        """Stop several at the same time, and wait until all have ended."""
        for name in names:
            with contextlib.suppress(_NotRunning):
                self._call("stopProcess", name, False)
        while any(one.name in names and one.pid for one in self.all()):
            time.sleep(_POLL_S)

    def signal(self, name: str, signal: str) -> None:
        """Send one a signal, such as HUP."""
        self._call("signalProcess", name, signal)

    def update(self) -> None:
        """Read the configuration again; start what it adds and stop what it leaves out."""
        added, _changed, removed = self._call("reloadConfig")[0]
        for name in removed:
            self._call("stopProcessGroup", name, True)
            self._call("removeProcessGroup", name)
        for name in added:
            self._call("addProcessGroup", name)

    def shutdown(self, timeout_s: float) -> None:
        """Stop all of them, and supervisord."""
        self._call("shutdown")
        deadline = time.monotonic() + timeout_s
        while self._socket.exists() and self.is_running():
            if time.monotonic() > deadline:
                raise OperatorError(f"the fleet did not end within {timeout_s:g} s")
            time.sleep(_POLL_S)

    def _call(self, method: str, *arguments: Any) -> Any:
        # A stop waits for as long as a drain may take, which supervisord bounds.
        transport = SupervisorTransport(serverurl=f"unix://{self._socket}")
        proxy = xmlrpc.client.ServerProxy("http://localhost", transport=transport)
        try:
            return getattr(proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultString.startswith("NOT_RUNNING"):
                raise _NotRunning(fault.faultString) from None
            raise OperatorError(f"supervisord: {method}: {fault.faultString}") from None
        except (OSError, HTTPException, xmlrpc.client.Error) as error:
            raise OperatorError(f"the fleet does not run: {self._socket}: {error}") from None
        finally:
            transport.close()


class _NotRunning(OperatorError):
    pass
