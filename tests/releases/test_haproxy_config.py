"""The configuration that is written for HAProxy."""

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from haproxy_runs import haproxy_binary
from support import ROOT
from trireme_ops.releases.haproxy_config import ProxiedServer, render_haproxy

SERVER = ProxiedServer("a")


def complaints(config: Path) -> str:
    """What HAProxy says about a configuration that it refuses, or warns of."""
    done = subprocess.run([haproxy_binary(), "-c", "-f", str(config)], capture_output=True, text=True, timeout=20)
    return done.stderr if done.returncode or "WARNING" in done.stderr else ""


def test_the_committed_one_is_valid_and_what_the_template_gives() -> None:
    committed = ROOT / "docker" / "haproxy.cfg"
    assert committed.read_text(encoding="utf-8") == render_haproxy([ProxiedServer("local")], "/run/haproxy/admin.sock")
    assert not complaints(committed)


@pytest.mark.parametrize("balance", ["roundrobin", "leastconn", "random"])
def test_several_servers(tmp_path: Path, balance: str) -> None:
    servers = [SERVER, ProxiedServer("gpu-2.example", "10.0.0.2", 9000, 9001, 9003)]
    config = tmp_path / "haproxy.cfg"
    config.write_text(render_haproxy(servers, "127.0.0.1:9999", bind="*", balance=balance))
    assert not complaints(config)
    assert "server gpu-2.example 10.0.0.2:9001 proto h2 check-proto h1 port 9003\n" in config.read_text()


@pytest.mark.parametrize(
    ("change", "wording"),
    [
        ({"servers": []}, "servers is empty"),
        ({"servers": [SERVER, SERVER]}, "'a' is given twice"),
        ({"servers": [replace(SERVER, name="a b")]}, "'a b' is no name"),
        ({"servers": [replace(SERVER, host="x\n    server y")]}, "host is"),
        ({"servers": [replace(SERVER, health_port=0)]}, "servers: a: health_port is 0"),
        ({"grpc_port": 70000}, "grpc_port is 70000"),
        ({"bind": "everywhere"}, "bind is 'everywhere'"),
        ({"socket": "admin"}, "socket is 'admin'"),
        ({"socket": "10.0.0.1:9999"}, "socket is '10.0.0.1:9999'"),
        ({"socket": "/run/a b"}, "socket is '/run/a b'"),
        ({"balance": "first"}, "balance is 'first'; weights are followed by roundrobin, leastconn, random"),
        ({"stream_timeout_s": 0}, "stream_timeout_s is 0"),
    ],
)
def test_what_cannot_be_is_refused_by_name(change: dict[str, Any], wording: str) -> None:
    with pytest.raises(ValueError, match=wording):
        render_haproxy(**{"servers": [SERVER], "socket": "/run/haproxy.sock", **change})
