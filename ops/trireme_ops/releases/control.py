"""The operator's side of a server: calls the acts of its `ReleaseHost`, and holds its lock meanwhile."""

import contextlib
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from ..embedded import CONTROL_HEADER
from ..errors import OperatorError
from .host import LEASE_S
from .release import Release, operator_name

#: How long an act may take that loads nothing, and one that does, in seconds.
_SHORT_S, _LOAD_S = 30.0, 3600.0

_POLL_S = 0.1


class Unreachable(OperatorError):
    """A server that does not answer."""


class ActRefused(OperatorError):
    """What a server would not do, in its own words. status: HTTP."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Address:
    """Where a server's supervisor listens. name: what the operator calls it."""

    name: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str, name: str = "") -> "Address":
        """Read host:port. Raises OperatorError."""
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise OperatorError(f"{text!r} is no address; host:port of a server's health endpoint is needed")
        return cls(name or text, host, int(port))


class Control:
    """One server. Not for several threads, but for the renewing of the lock, which it does itself."""

    def __init__(self, address: Address, key: str) -> None:
        self.address = address
        self._key = key
        self._token = ""
        self._renewal: threading.Timer | None = None

    @property
    def name(self) -> str:
        """What the operator calls it."""
        return self.address.name

    def status(self, timeout_s: float = _SHORT_S) -> dict[str, Any]:
        """What is live, and what is on its way; see `ReleaseHost.status`."""
        return self._call("GET", "", None, timeout_s)

    def target(self, kind: str) -> str:
        """host:port of one of its endpoints: http, grpc, metrics."""
        return f"{self.address.host}:{self.status()['ports'][kind]}"

    def drain(self) -> None:
        """Have balancers send it nothing new."""
        self._call("POST", "drain", {}, _SHORT_S)

    def resume(self) -> None:
        """Have balancers send it requests again."""
        self._call("POST", "resume", {}, _SHORT_S)

    def lock(self, purpose: str) -> dict[str, Any] | None:
        """Take the lock; the promotion that was found under way, if there is one. Raises ActRefused: who holds it."""
        body = {"operator": operator_name(), "machine": socket.gethostname(), "pid": os.getpid(), "purpose": purpose}
        answer = self._call("POST", "lock", body, _SHORT_S)
        self._token = answer["token"]
        self._renew_later()
        found: dict[str, Any] | None = answer["found"]
        return found

    def _renew_later(self) -> None:
        self._renewal = threading.Timer(LEASE_S / 4, self._renew)
        self._renewal.daemon = True
        self._renewal.start()

    def _renew(self) -> None:
        # Where it fails, the act that is under way will say so.
        with contextlib.suppress(OperatorError):
            self._act("renew", {})
        self._renew_later()

    def unlock(self) -> None:
        """Give the lock back; a server that is gone has none."""
        if self._renewal is not None:
            self._renewal.cancel()
        if self._token:
            token, self._token = self._token, ""
            try:
                self._call("POST", "unlock", {"token": token}, _SHORT_S)
            except OperatorError:
                return

    @property
    def is_locked(self) -> bool:
        """Whether this holds the lock, as far as is known."""
        return bool(self._token)

    def preflight(self, release: Release) -> list[dict[str, str]]:
        """The findings; see `preflight.preflight`."""
        findings: list[dict[str, str]] = self._act("preflight", {"document": release.to_json()}, _LOAD_S)["findings"]
        return findings

    def load(self, release: Release, in_background: bool = True) -> dict[str, Any]:
        """Load a release next to what runs; in_background: without getting into its way."""
        return self._act("load", {"document": release.to_json(), "in_background": in_background}, _LOAD_S)

    def document(self, release: str) -> Release:
        """A release that this server was given once."""
        return Release.from_json(self._act("document", {"release": release}))

    def point(self, release: Release) -> None:
        """Have a server that does not run start with this release."""
        self._act("point", {"llm": release.llm, "document": release.to_json()}, _LOAD_S)

    def wait_until_idle(self, timeout_s: float = _LOAD_S) -> None:
        """Wait until the server has ended what it does. Raises ActRefused if it does not in time."""
        deadline = time.monotonic() + timeout_s
        while doing := self.status()["doing"]:
            if time.monotonic() > deadline:
                raise ActRefused(f"{self.name}: is still {doing} after {timeout_s:g} s", 409)
            time.sleep(_POLL_S)

    def switch(self, llm: str, release: str | None) -> dict[str, Any]:
        """Put a loaded release behind the public names."""
        return self._act("switch", {"llm": llm, "release": release}, _LOAD_S)

    def mark(self, phase: str) -> None:
        """Write to the server's journal how far the promotion is."""
        self._act("mark", {"phase": phase})

    def free(self, llm: str, release: str | None, timeout_s: float) -> bool:
        """Drain and unload a release that is not live; False if it still has requests after `timeout_s`."""
        body = {"llm": llm, "release": release, "timeout_s": timeout_s}
        return bool(self._act("free", body, timeout_s + _SHORT_S * 4)["at_rest"])

    def start_shadow(self, release: str, fraction: float, show_texts: bool) -> None:
        """Copy a share of the live traffic to a release that is loaded."""
        self._act("start_shadow", {"release": release, "fraction": fraction, "show_texts": show_texts})

    def shadow_report(self) -> dict[str, Any]:
        """What was seen so far; see `shadow.Shadow.report`."""
        return self._act("shadow_report", {})

    def stop_shadow(self) -> dict[str, Any]:
        """Copy no more; the last report."""
        return self._act("stop_shadow", {}, 2 * _SHORT_S)

    def end(self, outcome: str, why: str) -> None:
        """Close the server's journal entry."""
        self._act("end", {"outcome": outcome, "why": why})

    def _act(self, act: str, body: Mapping[str, Any], timeout_s: float = _SHORT_S) -> dict[str, Any]:
        return self._call("POST", act, {"token": self._token, **body}, timeout_s)

    def _call(self, method: str, act: str, body: Any, timeout_s: float) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self.address.host, self.address.port, timeout=timeout_s)
        path = "/v2/trireme/releases" + (f"/{act}" if act else "")
        try:
            text = None if body is None else json.dumps(body).encode()
            connection.request(method, path, text, {CONTROL_HEADER: self._key})
            response = connection.getresponse()
            status, document = response.status, json.loads(response.read() or b"{}")
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(
                f"{self.name}: no server answers at {self.address.host}:{self.address.port} "
                f"({str(error) if isinstance(error, OSError) else ascii(error)[:80]})"
            ) from error
        except ValueError as error:
            raise Unreachable(f"{self.name}: what answers at {self.address.port} is no Trireme server") from error
        finally:
            connection.close()
        if status != 200:
            if "error" not in document or (act == "" and status == 404):
                raise Unreachable(
                    f"{self.name}: what answers at {self.address.host}:{self.address.port} is no Trireme supervisor "
                    "(its health port is needed)"
                )
            raise ActRefused(f"{self.name}: {document['error']}", status)
        return dict(document)

    def __enter__(self) -> "Control":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.unlock()
