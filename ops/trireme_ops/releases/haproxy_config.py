"""HAProxy's configuration for several Triton servers, from docker/haproxy.cfg.in.

python -m trireme_ops.releases.haproxy_config > docker/haproxy.cfg    the committed one: a server on this machine
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from .haproxy import WEIGHTED_ALGORITHMS

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


def render_haproxy(
    servers: Sequence[ProxiedServer],
    socket: str,
    *,
    bind: str = "127.0.0.1",
    grpc_port: int = 9001,
    http_port: int = 9000,
    balance: str = "roundrobin",
    stream_timeout_s: int = 3600,
) -> str:
    """The text of a configuration with the backends `grpc` and `http`, each with all `servers`.

    socket: the path of the admin socket, or HOST:PORT on the loopback address, where there are no permissions to keep
    others of this machine out. balance: one of `WEIGHTED_ALGORITHMS`. roundrobin alone gives a canary exactly its
    share; under leastconn, one that answers with errors at once draws more. stream_timeout_s: how long a stream may be
    silent. Raises ValueError naming key and value.
    """
    if not servers:
        raise ValueError("servers is empty; HAProxy needs one at least")
    names = [server.name for server in servers]
    for server in servers:
        if not _NAME.fullmatch(server.name) or names.count(server.name) > 1:
            why = "given twice" if names.count(server.name) > 1 else "no name: letters, digits, '_', '.' and '-'"
            raise ValueError(f"servers: {server.name!r} is {why}")
        if not _HOST.fullmatch(server.host):
            raise ValueError(f"servers: {server.name}: host is {server.host!r}; a name or an IPv4 address is needed")
        for key in ("http_port", "grpc_port", "health_port"):
            _check_port(f"servers: {server.name}: {key}", getattr(server, key))
    _check_port("grpc_port", grpc_port)
    _check_port("http_port", http_port)
    try:
        ipaddress.IPv4Address("0.0.0.0" if bind == "*" else bind)
    except ValueError:
        raise ValueError(f"bind is {bind!r}; an IPv4 address or * is needed") from None
    if balance not in WEIGHTED_ALGORITHMS:
        raise ValueError(f"balance is {balance!r}; weights are followed by {', '.join(WEIGHTED_ALGORITHMS)}")
    if stream_timeout_s < 1:
        raise ValueError(f"stream_timeout_s is {stream_timeout_s}; it must be 1 or more")
    template = jinja2.Template(
        TEMPLATE.read_text(encoding="utf-8"), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    text: str = template.render(
        servers=servers,
        socket=_socket(socket),
        bind=bind,
        grpc_port=grpc_port,
        http_port=http_port,
        balance=balance,
        stream_timeout_s=stream_timeout_s,
    )
    return text


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
