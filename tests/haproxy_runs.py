"""A real HAProxy in front of servers."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support import Server, wait_for
from trireme_ops.fleet.haproxy_config import ProxiedServer, render_haproxy
from trireme_ops.ports import free_ports
from trireme_ops.releases.haproxy import HAProxy


def haproxy_binary() -> str:
    """HAProxy's executable. Where there is none the test is skipped, and fails in continuous integration."""
    # Debian keeps it where only root's PATH looks.
    binary = shutil.which("haproxy", path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin")
    if binary is None:
        message = "haproxy is not installed. Type: sudo apt-get install haproxy"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return binary


@dataclass(frozen=True)
class RunningHAProxy:
    """HAProxy as it runs: HOST:PORT of its frontends, its admin socket, and a client of that."""

    grpc: str
    http: str
    socket: Path
    process: "subprocess.Popen[bytes]"

    @property
    def api(self) -> HAProxy:
        """The runtime API."""
        return HAProxy(str(self.socket))


def proxied(name: str, server: Server) -> ProxiedServer:
    """A running server as HAProxy's configuration names it."""
    http, grpc, health = (int(server.addresses[key].rpartition(":")[2]) for key in ("http", "grpc", "health"))
    return ProxiedServer(name, "127.0.0.1", http, grpc, health)


@contextmanager
def started(
    folder: Path, servers: Sequence[ProxiedServer], balance: str = "roundrobin", **settings: Any
) -> Iterator[RunningHAProxy]:
    """Run HAProxy in front of `servers`; ended with the context. settings: further ones of `render_haproxy`."""
    binary = haproxy_binary()
    grpc, http = free_ports(2)
    socket, config = folder / "admin.sock", folder / "haproxy.cfg"
    config.write_text(
        render_haproxy(servers, str(socket), grpc_port=grpc, http_port=http, balance=balance, **settings),
        encoding="utf-8",
    )
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen([binary, "-db", "-f", str(config)], stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: socket.exists() or process.poll() is not None, 10, "HAProxy's socket")
        assert process.poll() is None, (folder / "haproxy.log").read_text()
        yield RunningHAProxy(f"127.0.0.1:{grpc}", f"http://127.0.0.1:{http}", socket, process)
    finally:
        process.terminate()
        process.wait(timeout=10)
