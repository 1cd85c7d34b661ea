"""The configuration that is written for HAProxy."""

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from haproxy_runs import haproxy_binary
from support import ROOT
from trireme_ops.fleet.haproxy_config import BACKENDS, ProxiedGateway, ProxiedServer, render_haproxy

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
    assert "server gpu-2.example 10.0.0.2:9001 proto h2 check check-proto h1 port 9003 " in config.read_text()


def test_every_part_that_is_asked_for_is_valid(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("1\n")
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        render_haproxy(
            [SERVER],
            "127.0.0.1:9999",
            gateways=[ProxiedGateway("gateway-1", "10.0.0.3", 8080)],
            metrics_port=8405,
            client_requests_per_10s=100,
            client_streams=10,
            state_file=str(tmp_path / "state"),
            resolver="127.0.0.11:53",
        )
    )
    assert not complaints(config)
    text = config.read_text()
    assert "server gateway-1 10.0.0.3:8080 check" in text
    assert all(f"\nbackend {name}\n" in text for name in BACKENDS)


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
        ({"client_streams": -1}, "client_streams is -1"),
        ({"tls_certificate": "a b.pem"}, "tls_certificate is 'a b.pem'"),
        ({"metrics_port": 70000}, "metrics_port is 70000"),
        ({"resolver": "dns:53"}, "resolver is 'dns:53'"),
        ({"metrics_bind": "x"}, "metrics_bind is 'x'"),
        ({"gateways": [ProxiedGateway("g", port=0)]}, "gateways: g: port is 0"),
        ({"gateways": [ProxiedGateway("g"), ProxiedGateway("g")]}, "gateways: 'g' is given twice"),
        ({"gateways": [ProxiedGateway("g", "a b")]}, "gateways: g: host is 'a b'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(change: dict[str, Any], wording: str) -> None:
    with pytest.raises(ValueError, match=wording):
        render_haproxy(**{"servers": [SERVER], "socket": "/run/haproxy.sock", **change})
