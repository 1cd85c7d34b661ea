"""What a fleet consists of, and where each part listens: written by `trireme fleet up`, read by everything else."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..embedded import ADDRESS
from ..errors import OperatorError
from ..layout import Layout

#: The longest path of a Unix socket, in bytes, without what HAProxy adds to it while it starts.
_MAX_SOCKET_PATH = 90

MAX_REPLICAS = 64


@dataclass(frozen=True)
class ServerPlan:
    """One `trireme serve`: its name, and HOST:PORT of its endpoints.

    release: what it serves if no release was ever put live on it; empty: the newest version of each model.
    """

    name: str
    http: str
    grpc: str
    metrics: str
    health: str
    release: str = ""

    def port(self, endpoint: str) -> int:
        """The port of `http`, `grpc`, `metrics` or `health`."""
        return int(getattr(self, endpoint).rpartition(":")[2])


@dataclass(frozen=True)
class GatewayPlan:
    """One `trireme gateway`: its name, and HOST:PORT."""

    name: str
    address: str


@dataclass(frozen=True)
class Edge:
    """HAProxy: HOST:PORT of its ways in, and the path of its admin socket. openai: empty without gateways."""

    grpc: str
    http: str
    openai: str
    metrics: str
    socket: str
    tls_certificate: str = ""
    balance: str = "leastconn"
    client_requests_per_10s: int = 0
    client_streams: int = 0


@dataclass(frozen=True)
class FleetPlan:
    """A fleet. folder: where all that it keeps lies. prometheus, redis: HOST:PORT, empty where there is none.

    drain_timeout_s: how long a server waits for what is under way. gateway_config: settings that are an operator's own.
    metrics_key_file: holds the key that a gateway's metrics are read with. version_key: see `trireme serve`.
    options: what it was started with. blackbox: HOST:PORT of the exporter that looks at the edge's certificate.
    """

    folder: Path
    edge: Edge
    servers: tuple[ServerPlan, ...] = ()
    gateways: tuple[GatewayPlan, ...] = ()
    prometheus: str = ""
    redis: str = ""
    drain_timeout_s: int = 30
    gateway_config: str = ""
    metrics_key_file: str = ""
    version_key: str = ""
    options: tuple[str, ...] = ()
    blackbox: str = ""

    @property
    def supervisor_socket(self) -> Path:
        """Where its processes are started and stopped."""
        return self.folder / "supervisor.sock"

    @property
    def logs(self) -> Path:
        """The folder of everybody's log."""
        return self.folder / "logs"

    @property
    def fleet_file(self) -> Path:
        """For `trireme release --fleet`."""
        return self.folder / "fleet.toml"

    def ready_file(self, server: str) -> Path:
        """What a server writes when it is ready."""
        return self.folder / f"{server}.ready"

    def server(self, name: str) -> ServerPlan:
        """The server of this name. Raises OperatorError naming those that there are."""
        for server in self.servers:
            if server.name == name:
                return server
        raise OperatorError(f"the fleet has no server {name!r}; it has {', '.join(one.name for one in self.servers)}")

    def save(self) -> None:
        """Write it, whole or not at all."""
        values = asdict(self)
        del values["folder"]
        # One object for HAProxy, as `trireme top` and scripts read it.
        values["name"], values["haproxy"] = "fleet", values.pop("edge")
        values["gateway"] = self.gateways[0].address if self.gateways else ""
        staging = state_path(self.folder).with_suffix(f".{os.getpid()}")
        staging.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        staging.rename(state_path(self.folder))


def fleet_folder(layout: Layout) -> Path:
    """Where a checkout keeps its fleet."""
    return layout.state / "fleet"


def state_path(folder: Path) -> Path:
    """The file of a fleet's plan."""
    return folder / "state.json"


def check_folder(folder: Path) -> None:
    """Raise OperatorError where HAProxy and Prometheus cannot use its paths, or the system those of sockets."""
    if not re.fullmatch(r"[A-Za-z0-9_./@+-]+", str(folder)):
        raise OperatorError(f"{folder}: HAProxy needs a path of letters, digits and _./@+- here; move the checkout")
    length = len(os.fsencode(folder / "supervisor.sock"))
    if length > _MAX_SOCKET_PATH:
        raise OperatorError(f"{folder}: paths of sockets in it have {length} bytes; {_MAX_SOCKET_PATH} is the most")


def read_plan(layout: Layout) -> FleetPlan:
    """The fleet of a checkout. Raises OperatorError if there is none."""
    folder = fleet_folder(layout)
    try:
        values = json.loads(state_path(folder).read_text(encoding="utf-8"))
        return _plan(folder, values)
    except FileNotFoundError:
        raise OperatorError("there is no fleet here. Start one: trireme fleet up --replicas 3") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OperatorError(f"{state_path(folder)} is not what `trireme fleet up` writes: {error}") from None


def _plan(folder: Path, values: dict[str, Any]) -> FleetPlan:
    return FleetPlan(
        folder,
        Edge(**values["haproxy"]),
        tuple(ServerPlan(**server) for server in values["servers"]),
        tuple(GatewayPlan(**gateway) for gateway in values["gateways"]),
        values["prometheus"],
        values["redis"],
        values["drain_timeout_s"],
        values["gateway_config"],
        values["metrics_key_file"],
        values["version_key"],
        tuple(values["options"]),
        values["blackbox"],
    )


def server_plan(number: int, ports: Sequence[int], release: str = "") -> ServerPlan:
    """The `number`th server, from 1; ports: HTTP, gRPC, metrics, health."""
    http, grpc, metrics, health = (f"{ADDRESS}:{port}" for port in ports)
    return ServerPlan(f"server-{number}", http, grpc, metrics, health, release)
