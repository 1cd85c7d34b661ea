"""HAProxy's configuration for several Triton servers, from docker/haproxy.cfg.in.

python -m trireme_ops.fleet.haproxy_config > docker/haproxy.cfg    the committed one: a server on this machine
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from ..releases.haproxy import WEIGHTED_ALGORITHMS

TEMPLATE = Path(__file__).resolve().parents[3] / "docker" / "haproxy.cfg.in"

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_PATH = re.compile(r"[A-Za-z0-9_./@+-]*/[A-Za-z0-9_./@+-]+")
_TCP = re.compile(r"(?P<host>[A-Za-z0-9.-]+):(?P<port>[0-9]+)")


@dataclass(frozen=True)
class ProxiedServer:
    """A Triton server behind HAProxy: a name or an IPv4 address, and its ports. health: its supervisor's endpoint."""

    name: str
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    health_port: int = 8003


@dataclass(frozen=True)
class ProxiedGateway:
    """A gateway behind HAProxy: a name or an IPv4 address, and its port."""

    name: str
    host: str = "127.0.0.1"
    port: int = 8080


#: The backends that hold the servers, and follow their weights.
BACKENDS = ("grpc", "http", "grpc_session", "http_session")


def render_haproxy(
    servers: Sequence[ProxiedServer],
    socket: str,
    *,
    gateways: Sequence[ProxiedGateway] = (),
    bind: str = "127.0.0.1",
    grpc_port: int = 9001,
    http_port: int = 9000,
    openai_port: int = 9080,
    metrics_port: int = 0,
    metrics_bind: str = "127.0.0.1",
    tls_certificate: str = "",
    balance: str = "leastconn",
    stream_timeout_s: int = 3600,
    client_requests_per_10s: int = 0,
    client_streams: int = 0,
    state_file: str = "",
    resolver: str = "",
) -> str:
    """The text of a configuration with the backends of `BACKENDS`, each with all `servers`.

    A request with the header x-trireme-session goes to `grpc_session` or `http_session`, which choose by its value.
    With `gateways` there is a frontend for OpenAI's API, too.

    socket: the path of the admin socket, or HOST:PORT on the loopback address, where there are no permissions to keep
    others of this machine out. metrics_port: of HAProxy's Prometheus exporter; 0: none. tls_certificate: a PEM file
    with certificate, chain and key; without it the ways in are plain. balance: one of `WEIGHTED_ALGORITHMS`. roundrobin
    alone gives a canary exactly its share; under leastconn, one that answers with errors at once draws more.
    stream_timeout_s: how long a stream may be silent. client_requests_per_10s, client_streams: the most that one
    address may ask for, and have under way at once; 0: any number. state_file: where the states of the servers are kept
    over a reload. resolver: IPV4:PORT of a name server that is asked for the servers' names again and again.
    Raises ValueError naming key and value.
    """
    if not servers:
        raise ValueError("servers is empty; HAProxy needs one at least")
    _check_places("servers", servers)
    for server in servers:
        for key in ("http_port", "grpc_port", "health_port"):
            _check_port(f"servers: {server.name}: {key}", getattr(server, key))
    _check_gateways(gateways)
    _check_port("grpc_port", grpc_port)
    _check_port("http_port", http_port)
    if gateways:
        _check_port("openai_port", openai_port)
    if metrics_port:
        _check_port("metrics_port", metrics_port)
    for key, value in (("bind", bind), ("metrics_bind", metrics_bind)):
        try:
            ipaddress.IPv4Address("0.0.0.0" if value == "*" else value)
        except ValueError:
            raise ValueError(f"{key} is {value!r}; an IPv4 address or * is needed") from None
    for key, path in (("tls_certificate", tls_certificate), ("state_file", state_file)):
        if path and not _PATH.fullmatch(path):
            raise ValueError(f"{key} is {path!r}; a path of letters, digits and _./@+- is needed")
    if balance not in WEIGHTED_ALGORITHMS:
        raise ValueError(f"balance is {balance!r}; weights are followed by {', '.join(WEIGHTED_ALGORITHMS)}")
    if stream_timeout_s < 1:
        raise ValueError(f"stream_timeout_s is {stream_timeout_s}; it must be 1 or more")
    for key, number in (("client_requests_per_10s", client_requests_per_10s), ("client_streams", client_streams)):
        if number < 0:
            raise ValueError(f"{key} is {number}; it must be 0 (any number) or more")
    template = jinja2.Template(
        TEMPLATE.read_text(encoding="utf-8"), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    text: str = template.render(
        servers=servers,
        socket=_socket(socket),
        gateways=gateways,
        bind=bind,
        grpc_port=grpc_port,
        http_port=http_port,
        openai_port=openai_port,
        metrics_port=metrics_port,
        metrics_bind=metrics_bind,
        tls_certificate=tls_certificate,
        client_requests_per_10s=client_requests_per_10s,
        client_streams=client_streams,
        refusals=_refusals(client_requests_per_10s, client_streams),
        state_file=state_file,
        resolver=_resolver(resolver),
        balance=balance,
        stream_timeout_s=stream_timeout_s,
    )
    return text


def _resolver(address: str) -> str:
    host, _, port = address.rpartition(":")
    try:
        if address and (not ipaddress.IPv4Address(host) or not 1 <= int(port) <= 65535):
            raise ValueError
    except ValueError:
        raise ValueError(f"resolver is {address!r}; IPV4:PORT of a name server is needed") from None
    return address


def _refusals(requests_per_10s: int, streams: int) -> list[tuple[str, str]]:
    """The conditions in which a client is refused, and what it is told."""
    found = []
    if requests_per_10s:
        found.append(("too_often", f"more than {requests_per_10s} requests in 10 s from your address"))
    if streams:
        found.append(("too_many", f"more than {streams} requests at once from your address"))
    return found


def _check_places(key: str, places: Sequence[ProxiedServer | ProxiedGateway]) -> None:
    """Names that are distinct, and hosts."""
    names = [place.name for place in places]
    for place in places:
        if not _NAME.fullmatch(place.name) or names.count(place.name) > 1:
            why = "given twice" if names.count(place.name) > 1 else "no name: letters, digits, '_', '.' and '-'"
            raise ValueError(f"{key}: {place.name!r} is {why}")
        if not _HOST.fullmatch(place.host):
            raise ValueError(f"{key}: {place.name}: host is {place.host!r}; a name or an IPv4 address is needed")


def _check_gateways(gateways: Sequence[ProxiedGateway]) -> None:
    _check_places("gateways", gateways)
    for gateway in gateways:
        _check_port(f"gateways: {gateway.name}: port", gateway.port)


def _check_port(key: str, port: int) -> None:
    if not 1 <= port <= 65535:
        raise ValueError(f"{key} is {port}; allowed are 1 to 65535")


def _socket(address: str) -> str:
    if _PATH.fullmatch(address):
        return address
    tcp = _TCP.fullmatch(address)
    if tcp is None or tcp["host"] not in ("127.0.0.1", "localhost"):
        raise ValueError(f"socket is {address!r}; a path, or 127.0.0.1:PORT is needed")
    _check_port("socket", int(tcp["port"]))
    return f"ipv4@127.0.0.1:{tcp['port']}"


if __name__ == "__main__":
    print(render_haproxy([ProxiedServer("local")], "/run/haproxy/admin.sock"), end="")
