"""HAProxy's runtime API, over its admin socket: weights, states and figures of the servers behind it.

Written to HAProxy 2.6. Weights are what a canary's share is made of; `trireme_ops.fleet.haproxy_config` writes the
configuration that this module is a client of.
"""

import csv
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction

from ..errors import OperatorError

MAX_WEIGHT = 256

#: The weight that share_weights comes near to: there is room above it and below.
_USUAL_WEIGHT = 100

#: Those algorithms of `balance` that follow a weight that is set while HAProxy runs. `first` takes it and ignores it,
#: `static-rr` and hashing over a map refuse it.
WEIGHTED_ALGORITHMS = ("roundrobin", "leastconn", "random")

#: Those that follow it where `hash-type` is consistent; otherwise HAProxy refuses it.
_HASHING = ("source", "uri", "url_param", "hdr", "hash", "rdp-cookie")

#: Bits of srv_admin_state, as `show servers state` gives it.
_MAINT, _DRAIN = 0x01 | 0x02 | 0x04 | 0x20, 0x08 | 0x10

_RUNNING = 2

#: A `;` would begin another command.
_NAME = re.compile(r"[A-Za-z0-9_.:-]+")

#: How the answers begin that are no figures.
_COMPLAINTS = ("Unknown command", "Permission denied", "Require")


class HAProxyError(OperatorError):
    """HAProxy cannot be reached, knows no such backend or server, or does not do what it is asked for."""


class ServerState(Enum):
    """What an operator has asked of a server: to take requests, to finish those it has, or to rest."""

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


@dataclass(frozen=True)
class Weight:
    """A server's share of its backend's traffic, in proportion to the others'.

    current and initial: 0 to 256, as set now and as the configuration says. state: a server that drains or rests gets
    nothing whatever its weight. is_up: whether its checks say that it serves.
    """

    current: int
    initial: int
    state: ServerState
    is_up: bool

    @property
    def effective(self) -> int:
        """The weight that counts now."""
        return self.current if self.is_up and self.state is ServerState.READY else 0


@dataclass(frozen=True)
class ServerStats:
    """What HAProxy counted of one server since it started.

    running: streams under way; queued: those that wait for it; requests: handed to it; errors_5xx: its answers of
    status 5xx (gRPC's errors are answers of status 200, and not among them); connection_errors and response_errors:
    where there was no server, or no whole answer; retries and redispatches: requests that were tried once more, and
    with another server. response_time_ms: the mean over the last 1,024 requests, until the first byte of the answer.
    """

    status: str
    running: int
    queued: int
    requests: int
    errors_5xx: int
    connection_errors: int
    response_errors: int
    retries: int
    redispatches: int
    response_time_ms: int


class HAProxy:
    """A client of one HAProxy. Every call is a connection of its own.

    address: the path of the admin socket, or HOST:PORT. timeout_s: for connecting, and for each piece of an answer.
    Every method raises HAProxyError.
    """

    def __init__(self, address: str, timeout_s: float = 5.0) -> None:
        self.address = address
        self.timeout_s = timeout_s

    def version(self) -> str:
        """Such as 2.6.12-1+deb12u3."""
        for line in self._ask("show info").splitlines():
            key, _, value = line.partition(": ")
            if key == "Version":
                return value
        raise HAProxyError(f"{self.address}: `show info` names no version; is this HAProxy?")

    def algorithm(self, backend: str) -> str:
        """How a backend's servers are chosen."""
        return self._rows(backend)["BACKEND"].get("algo", "")

    def weights(self, backend: str) -> dict[str, Weight]:
        """The weights of a backend's servers, by name."""
        command = f"show servers state {_checked('backend', backend)}"
        try:
            lines = self._ask(command).splitlines()
        except _NoSuchBackend:
            raise self._no_such_backend(backend) from None
        # The first line is the version of the format, the second one names the columns.
        if len(lines) < 2 or lines[0] != "1" or not lines[1].startswith("# "):
            raise self._not_understood(command, "\n".join(lines))
        columns = lines[1].removeprefix("# ").split()
        rows = [dict(zip(columns, line.split(), strict=False)) for line in lines[2:]]
        try:
            return {row["srv_name"]: _weight(row) for row in rows}
        except (KeyError, ValueError):
            raise self._not_understood(command, "\n".join(lines)) from None

    def set_weight(self, backend: str, server: str, weight: int) -> None:
        """Give a server a weight of 0 to 256; with 0 it gets nothing new. Raises also where weights do nothing."""
        if isinstance(weight, bool) or not 0 <= weight <= MAX_WEIGHT:
            raise HAProxyError(f"the weight of {backend}/{server} is {weight}; allowed are 0 to {MAX_WEIGHT}")
        algorithm = self.algorithm(backend)
        if algorithm not in (*WEIGHTED_ALGORITHMS, *_HASHING):
            raise HAProxyError(
                f"{self.address}: the backend {backend} has `balance {algorithm}`, which does not follow weights "
                f"that are set at run time; use one of {', '.join(WEIGHTED_ALGORITHMS)}"
            )
        self._set(backend, server, f"weight {weight}")

    def state(self, backend: str, server: str) -> ServerState:
        """What was asked of a server."""
        weights = self.weights(backend)
        if server not in weights:
            raise self._no_such_server(backend, server, list(weights))
        return weights[server].state

    def set_state(self, backend: str, server: str, state: ServerState) -> None:
        """Let a server take requests, finish those that it has, or rest at once."""
        self._set(backend, server, f"state {state.value}")

    def stats(self, backend: str) -> dict[str, ServerStats]:
        """The figures of a backend's servers, by name."""
        rows = self._rows(backend)
        try:
            return {name: _stats(row) for name, row in rows.items() if name != "BACKEND"}
        except (KeyError, ValueError):
            raise self._not_understood("show stat", str(rows)) from None

    def servers_state(self) -> str:
        """Weights and states of all servers, as HAProxy reads them again from its `server-state-file`."""
        return self._ask("show servers state") + "\n"

    def _rows(self, backend: str) -> dict[str, dict[str, str]]:
        # 6: backends and their servers. Of all: asked for one by name, HAProxy takes a frontend of that name instead.
        command = "show stat -1 6 -1"
        answer = self._ask(command)
        lines = answer.removeprefix("# ").splitlines()
        if not lines or not {"pxname", "svname"} <= set(lines[0].split(",")):
            raise self._not_understood(command, answer)
        rows = {row["svname"]: row for row in csv.DictReader(lines) if row["pxname"] == backend}
        if "BACKEND" not in rows:
            raise self._no_such_backend(backend)
        return rows

    def _set(self, backend: str, server: str, what: str) -> None:
        names = f"{_checked('backend', backend)}/{_checked('server', server)}"
        try:
            answer = self._ask(f"set server {names} {what}").strip()
        except _NoSuchServer:
            raise self._no_such_server(backend, server, list(self.weights(backend))) from None
        except _NoSuchBackend:
            raise self._no_such_backend(backend) from None
        if answer:
            raise HAProxyError(f"{self.address}: `set server {names} {what}` was refused: {answer}")

    def _ask(self, command: str) -> str:
        """The answer to a command. Raises HAProxyError for a complaint."""
        answer = self._exchange(command)
        if answer.startswith("No such server"):
            raise _NoSuchServer(f"{self.address}: `{command}`: no such server")
        if answer.startswith(("No such backend", "Can't find backend")):
            raise _NoSuchBackend(f"{self.address}: `{command}`: no such backend")
        if answer.startswith("Permission denied"):
            raise HAProxyError(f"{self.address}: `{command}` is not permitted; the socket needs `level admin`")
        if answer.startswith(_COMPLAINTS):
            raise HAProxyError(f"{self.address}: `{command}` was refused: {answer.splitlines()[0]}")
        return answer

    def _exchange(self, command: str) -> str:
        try:
            with self._connected() as connection:
                connection.sendall(f"{command}\n".encode("ascii"))
                pieces = []
                while piece := connection.recv(65_536):
                    pieces.append(piece)
        except FileNotFoundError:
            raise HAProxyError(
                f"there is no socket {self.address}; is HAProxy running, and has it `stats socket {self.address}`?"
            ) from None
        except TimeoutError:
            raise HAProxyError(
                f"{self.address}: no answer to `{command}` within {self.timeout_s:g} s; is this HAProxy's admin socket?"
            ) from None
        except OSError as error:
            raise HAProxyError(f"{self.address}: HAProxy cannot be asked: {error.strerror or error}") from None
        return b"".join(pieces).decode("utf-8", "replace").rstrip("\n")

    def _connected(self) -> socket.socket:
        if "/" not in self.address:
            host, _, port = self.address.rpartition(":")
            if not host or not port.isdecimal():
                raise HAProxyError(f"{self.address!r} is neither a path nor HOST:PORT of HAProxy's admin socket")
            return socket.create_connection((host, int(port)), timeout=self.timeout_s)
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(self.timeout_s)
        try:
            connection.connect(self.address)
        except BaseException:
            connection.close()
            raise
        return connection

    def _no_such_backend(self, backend: str) -> HAProxyError:
        return HAProxyError(f"{self.address}: HAProxy has no backend {backend!r}")

    def _no_such_server(self, backend: str, server: str, known: list[str]) -> HAProxyError:
        return HAProxyError(
            f"{self.address}: the backend {backend} has no server {server!r}; it has {', '.join(known) or 'none'}"
        )

    def _not_understood(self, command: str, answer: str) -> HAProxyError:
        return HAProxyError(f"{self.address}: the answer to `{command}` is not understood: {answer[:200]!r}")


class _NoSuchBackend(HAProxyError):
    pass


class _NoSuchServer(HAProxyError):
    pass


def _checked(what: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise HAProxyError(f"{name!r} is no name of a {what} of HAProxy: letters, digits, '_', '.', ':' and '-'")
    return name


def _weight(row: Mapping[str, str]) -> Weight:
    admin = int(row["srv_admin_state"])
    state = ServerState.MAINT if admin & _MAINT else ServerState.DRAIN if admin & _DRAIN else ServerState.READY
    return Weight(int(row["srv_uweight"]), int(row["srv_iweight"]), state, int(row["srv_op_state"]) == _RUNNING)


def _stats(row: Mapping[str, str]) -> ServerStats:
    def count(column: str) -> int:
        return int(row[column] or 0)

    return ServerStats(
        status=row["status"],
        running=count("scur"),
        queued=count("qcur"),
        requests=count("stot"),
        errors_5xx=count("hrsp_5xx"),
        connection_errors=count("econ"),
        response_errors=count("eresp"),
        retries=count("wretr"),
        redispatches=count("wredis"),
        response_time_ms=count("rtime"),
    )


def share_weights(servers_new: Sequence[str], servers_old: Sequence[str], percent: float) -> dict[str, int]:
    """Weights, 0 to 256, that give the new servers together `percent` of the traffic as exactly as they can.

    Servers of one side weigh the same. Where one side has no servers, the other gets everything. What share it is
    really: `real_percent`; with few servers it is off by at most 0.2 in the middle, and the smallest share above 0 of
    one new server beside one old one is 0.39 %, which is also given for less than that. Raises ValueError for a
    percentage out of 0 to 100, for no servers at all and for one that is on both sides.
    """
    if not 0 <= percent <= 100:
        raise ValueError(f"percent is {percent}; allowed are 0 to 100")
    both = set(servers_new) & set(servers_old)
    if both or not (servers_new or servers_old):
        raise ValueError(f"{sorted(both)[0]!r} is both new and old" if both else "there are no servers")
    if not servers_new or not servers_old:
        return dict.fromkeys([*servers_new, *servers_old], _USUAL_WEIGHT)
    if percent in (0, 100):
        new, old = (_USUAL_WEIGHT, 0) if percent else (0, _USUAL_WEIGHT)
    else:
        new, old = _closest_weights(len(servers_new), len(servers_old), Fraction(percent) / 100)
    return {**dict.fromkeys(servers_new, new), **dict.fromkeys(servers_old, old)}


def _closest_weights(count_new: int, count_old: int, share: Fraction) -> tuple[int, int]:
    """Weights of a new and of an old server, both above 0."""

    def distance(weights: tuple[int, int]) -> tuple[Fraction, int]:
        new, old = weights[0] * count_new, weights[1] * count_old
        return abs(Fraction(new, new + old) - share), abs(max(weights) - _USUAL_WEIGHT)

    candidates = []
    for new in range(1, MAX_WEIGHT + 1):
        exact = new * count_new * (1 - share) / share / count_old
        candidates += [(new, old) for old in (int(exact), int(exact) + 1) if 1 <= old <= MAX_WEIGHT]
    # Shares so small or so large that no pair comes near are given the outermost one.
    candidates += [(1, MAX_WEIGHT), (MAX_WEIGHT, 1)]
    return min(candidates, key=distance)


def real_percent(weights: Mapping[str, int], servers_new: Sequence[str]) -> float:
    """The share of the traffic, 0 to 100, that these weights give `servers_new`; 0 where all weights are 0."""
    total = sum(weights.values())
    return 100 * sum(weights[server] for server in servers_new) / total if total else 0.0
