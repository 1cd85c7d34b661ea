"""What to look at: one server, or the fleet that `trireme fleet up` keeps in .trireme/fleet/state.json."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import OperatorError
from ..layout import Layout
from .scrape import Endpoint

DEFAULT_METRICS, DEFAULT_HEALTH, DEFAULT_GATEWAY = "127.0.0.1:8002", "127.0.0.1:8003", "127.0.0.1:8080"


@dataclass(frozen=True)
class ServerTarget:
    """One server. health: its supervisor's endpoint, None for a Triton without one. key: to its control API."""

    name: str
    metrics: Endpoint
    health: Endpoint | None
    key: str = ""


@dataclass(frozen=True)
class Targets:
    """Everything that is watched. gateway_is_optional: it is shown only if it answers. haproxy: its admin socket."""

    name: str
    servers: tuple[ServerTarget, ...]
    gateway: Endpoint | None = None
    gateway_is_optional: bool = False
    haproxy: str = ""


def control_key() -> str:
    """This checkout's key to the control APIs; "" where there is none, or none that may be read."""
    try:
        return (Layout.find().state / "control.key").read_text(encoding="ascii").strip()
    except (OSError, OperatorError, UnicodeDecodeError):
        return ""


def fleet_state() -> Path:
    """Where this checkout's fleet keeps its state, if it has one. Raises OperatorError without a checkout."""
    return Layout.find().state / "fleet" / "state.json"


def one_server(metrics: str, health: str, gateway: str, gateway_is_optional: bool, key: str) -> Targets:
    """A single server. health, gateway: "" for none. Raises OperatorError for what is no address."""
    server = ServerTarget(
        metrics,
        Endpoint.parse("--metrics", metrics),
        Endpoint.parse("--health", health) if health else None,
        key,
    )
    return Targets("", (server,), Endpoint.parse("--gateway", gateway) if gateway else None, gateway_is_optional)


def read_fleet(path: Path, key: str, gateway: str = "") -> Targets:
    """The fleet that a state file names. gateway: another one than that. Raises OperatorError naming file and key."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OperatorError(f"there is no {path}; type: trireme fleet up") from None
    except OSError as error:
        raise OperatorError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise OperatorError(
            f"{path} is no JSON; the state.json that `trireme fleet up` keeps is needed, not a fleet.toml"
        ) from None
    servers = document.get("servers") if isinstance(document, dict) else None
    if not isinstance(servers, list) or not servers:
        raise OperatorError(f"{path}: servers is {servers!r:.60}; a list with one server at least is needed")
    found = [_server(f"{path}: servers[{index}]", server, key) for index, server in enumerate(servers)]
    names = [server.name for server in found]
    for name in names:
        if names.count(name) > 1:
            raise OperatorError(f"{path}: servers: the name {name!r} is given {names.count(name)} times")
    haproxy = document.get("haproxy")
    own = document.get("gateway")
    socket = haproxy.get("socket") if isinstance(haproxy, dict) else None
    if socket is not None and not isinstance(socket, str):
        raise OperatorError(f"{path}: haproxy.socket is {socket!r:.60}; a path is needed")
    if socket and "/" not in socket and ":" not in socket:
        raise OperatorError(f"{path}: haproxy.socket is {socket!r:.60}; a path or HOST:PORT is needed")
    return Targets(
        str(document.get("name") or "fleet"),
        tuple(found),
        _gateway(path, own, gateway),
        haproxy=str(path.resolve().parent / socket) if socket and "/" in socket else socket or "",
    )


def _gateway(path: Path, own: Any, given: str) -> Endpoint | None:
    if given:
        return Endpoint.parse("--gateway", given)
    return Endpoint.parse(f"{path}: gateway", str(own)) if own else None


def _server(where: str, server: Any, key: str) -> ServerTarget:
    if not isinstance(server, dict):
        raise OperatorError(f"{where} is {server!r:.60}; an object with name, metrics and health is needed")
    for field in ("name", "metrics"):
        if not isinstance(server.get(field), str) or not server[field]:
            raise OperatorError(f"{where}.{field} is {server.get(field)!r:.60}; a text is needed")
    health = server.get("health")
    return ServerTarget(
        server["name"],
        Endpoint.parse(f"{where}.metrics", server["metrics"]),
        Endpoint.parse(f"{where}.health", str(health)) if health else None,
        key,
    )
