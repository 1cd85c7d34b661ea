"""`trireme gateway`, and the gateway that `trireme serve` starts."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

if sys.version_info >= (3, 11):
    import tomllib

from gateway_runs import Gateway, chat
from support import ROOT, TRIREME, Server, start_server, stop_server, wait_for
from trireme_gateway.errors import SettingError
from trireme_gateway.settings import Settings, read_settings
from trireme_ops.ports import free_ports


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("policy = 5", "policy is 5"),
        ('policy = "best"', "policy is 'best'"),
        ("polcy = 1", "the key polcy is unknown"),
        ("port = 70000", "port is 70000"),
        ("[[server]]\nname = 'a'", "server.1.grpc is missing"),
        ("[[server]]\nname = 'a'\ngrpc = 'here'", "server.1.grpc is 'here'"),
        ("[[server]]\nname = 'a'\ngrpc = 'h:1'\n[[server]]\nname = 'a'\ngrpc = 'h:2'", "two servers 'a'"),
        ("server = []", "there is no server"),
        ("[[canary]]\nrelease = 'r2'\npercent = 120", "canary.1.percent is 120"),
        ("[[canary]]\nllm = 'tiny'\nrelease = 'r2'\npercent = 10", "no model with the LLM 'tiny'"),
        (
            "[[canary]]\nrelease = 'r2'\npercent = 60\n[[canary]]\nrelease = 'r3'\npercent = 60",
            "come to 120 %; at most 100",
        ),
        ("[cache]\nkind = 'disk'", "cache.kind is 'disk'"),
        ("[limits]\nmax_body_bytes = 5", "limits.max_body_bytes is 5"),
        ("x = ", "cannot be read"),
    ],
)
def test_settings_that_are_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    with pytest.raises(SettingError) as caught:
        read_settings(path, {})
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_the_settings_of_the_page_are_the_defaults(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "gateway.md").read_text(encoding="utf-8")
    (text,) = [
        block for block in re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL) if "policy" in block
    ]
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    told, defaults = read_settings(path, {}).model_dump(), Settings().model_dump()
    told["server"] = defaults["server"]
    told["model"] = defaults["model"]
    told["price"] = defaults["price"]
    assert told == defaults
    written = tomllib.loads(text) if sys.version_info >= (3, 11) else None
    for table in ("cache", "queue", "limits", "health"):
        assert written is None or written[table].keys() == defaults[table].keys()


def ended(*options: str) -> str:
    """What a gateway says that does not start."""
    done = subprocess.run([str(TRIREME), "gateway", *options], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr.startswith("trireme gateway: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_options_that_are_wrong(tmp_path: Path) -> None:
    assert "cannot be read" in ended("--config", str(tmp_path / "missing.toml"))
    assert "--port is 'x'" in ended("--port", "x")
    assert "server.1.grpc is 'nowhere'" in ended("--server", "nowhere")
    assert "cache.kind is 'disk'" in ended("--cache", "disk")


def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}" in ended("--port", str(port))


def test_serve_starts_a_gateway_and_ends_it(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    server = start_server(tmp_path, "--gateway-port", str(port))
    try:
        assert server.addresses["gateway"] == f"127.0.0.1:{port}"
        gateway = _gateway_of(server)
        assert chat(gateway, "What is 37 + 58?").text == "95"
        taken = subprocess.run(
            [str(TRIREME), "serve", "--http-port", "0", "--gateway-port", str(port)], capture_output=True, text=True
        )
        assert taken.returncode == 1
        assert f"{port} is in use" in taken.stderr
        # Another one in its place, when it dies.
        os.kill(server.addresses["gateway_pid"], signal.SIGKILL)
        wait_for(lambda: _answers(port), 30, "the gateway")
        assert chat(gateway, "What is 37 + 58?").text == "95"
    finally:
        said = stop_server(server)
    assert f"OpenAI   http://127.0.0.1:{port}/v1" in said
    assert not _answers(port)


def test_a_gateway_ends_with_its_serve(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    server = start_server(tmp_path, "--gateway-port", str(port))
    session = server.session()
    server.process.kill()
    server.process.communicate(timeout=30)
    wait_for(lambda: not _answers(port), 10, "the end of the gateway")
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in session), 20, "the end of the server")


def _gateway_of(server: Server) -> Gateway:
    return Gateway(server.process, server.addresses["gateway"], Path(os.devnull))  # type: ignore[arg-type]


def _answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
