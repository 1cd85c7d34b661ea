"""What tests of the gateway share: a gateway in front of servers, and raw HTTP to it."""

import http.client
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import TRIREME, Server, metric_of, wait_for


@dataclass(frozen=True)
class Gateway:
    """A running `trireme gateway`."""

    process: "subprocess.Popen[bytes]"
    address: str
    log_path: Path
    config: Path | None = None
    scheme: str = "http"

    @property
    def url(self) -> str:
        """Of OpenAI's API."""
        return f"{self.scheme}://{self.address}/v1"

    @property
    def log(self) -> str:
        """What it has written."""
        return self.log_path.read_text(encoding="utf-8")

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of its log."""
        return [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]

    def line_of(self, request_id: str) -> dict[str, Any]:
        """The line of a request; it is written when the answer has been sent."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.lines if line["event"] == "request" and line["request_id"] == request_id]

        wait_for(lambda: bool(found()), 20, f"the line of {request_id}")
        (line,) = found()
        return line

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over its labels, of those samples that have `labels`."""
        return metric_of(f"http://{self.address}/metrics", f"trireme_gateway_{name}", **labels)

    def resident_bytes(self) -> int:
        """Its memory."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def started_gateway(
    folder: Path,
    *options: str,
    config: str | None = None,
    database: str | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[Gateway]:
    """A gateway on a free port, ready, until the end.

    config: of its file. database: a URL, or one of its own. env: further variables.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "gateway.toml"
    if config is not None:
        path.write_text(config, encoding="utf-8")
        options = ("--config", str(path), *options)
    options = ("--database", database or f"sqlite:///{folder / 'gateway.db'}", *options)
    ready, log_path = folder / "gateway.ready", folder / "gateway.log"
    command = [str(TRIREME), "gateway", "--port", "0", "--ready-file", str(ready), *options]
    whole = {**os.environ, **(env or {})}
    with log_path.open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log, env=whole) as process:
        try:
            wait_for(lambda: ready.exists() or process.poll() is not None, 30, "the gateway")
            assert process.poll() is None, log_path.read_text()
            said = json.loads(ready.read_text())
            scheme = "https" if "https" in said else "http"
            gateway = Gateway(process, said[scheme], log_path, path if config is not None else None, scheme)
            assert said["url"] == gateway.url
            yield gateway
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
            assert not ready.exists()
    assert "Traceback" not in log_path.read_text(), log_path.read_text()


def server_options(*servers: Server) -> list[str]:
    """The options that name these servers."""
    return [word for one in servers for word in ("--server", f"{one.grpc},{one.addresses['health']}")]


def server_tables(servers: Mapping[str, Server]) -> str:
    """The tables of a configuration that name these servers."""
    return "".join(
        f'[[server]]\nname = "{name}"\ngrpc = "{one.grpc}"\nhealth = "{one.addresses["health"]}"\n'
        for name, one in servers.items()
    )


@dataclass(frozen=True)
class Answer:
    """Of HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error that it holds."""
        found = self.json["error"]
        assert found.keys() == {"message", "type", "param", "code"}
        assert isinstance(found["message"], str)
        assert found["message"]
        return dict(found)

    @property
    def events(self) -> list[Any]:
        """The events of a stream, the last of which must be [DONE]."""
        assert self.headers["content-type"].startswith("text/event-stream")
        parts = [part for part in self.body.decode().split("\n\n") if part]
        assert all(part.startswith("data: ") for part in parts)
        assert parts[-1] == "data: [DONE]", parts[-1]
        return [json.loads(part[6:]) for part in parts[:-1]]

    @property
    def text(self) -> str:
        """Of the first choice, streamed or not."""
        if not self.headers["content-type"].startswith("text/event-stream"):
            choice = self.json["choices"][0]
            return str(choice["message"]["content"] if "message" in choice else choice["text"])
        choices = [event["choices"][0] for event in self.events if event["choices"]]
        return "".join(one["delta"].get("content", "") if "delta" in one else one["text"] for one in choices)


def call(
    gateway: Gateway,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    method: str | None = None,
    timeout_s: float = 60,
) -> Answer:
    """One request on a connection of its own; body: bytes as they are, anything else as JSON."""
    connection = http.client.HTTPConnection(gateway.address, timeout=timeout_s)
    try:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method or ("GET" if data is None else "POST"), path, data, dict(headers or {}))
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


def chat(gateway: Gateway, text: str, headers: Mapping[str, str] | None = None, **fields: Any) -> Answer:
    """A chat of one message."""
    body = {"model": "ensemble", "messages": [{"role": "user", "content": text}], **fields}
    return call(gateway, "/v1/chat/completions", body, headers)


def complete(gateway: Gateway, prompt: Any, headers: Mapping[str, str] | None = None, **fields: Any) -> Answer:
    """A completion."""
    return call(gateway, "/v1/completions", {"model": "ensemble", "prompt": prompt, **fields}, headers)


@contextmanager
def open_stream(
    gateway: Gateway, fields: Mapping[str, Any], path: str = "/v1/completions", headers: Sequence[str] = ()
) -> Iterator[socket.socket]:
    """A connection on which a request was sent, and nothing was read."""
    body = json.dumps({"model": "ensemble", "stream": True, **fields}).encode()
    host, _, port = gateway.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        lines = [f"POST {path} HTTP/1.1", f"Host: {gateway.address}", f"Content-Length: {len(body)}", *headers]
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        yield connection


def read_until(connection: socket.socket, part: bytes) -> bytes:
    """What came on a connection, up to `part` at least; fails if it is closed before."""
    data = b""
    while part not in data:
        more = connection.recv(1 << 16)
        assert more, data
        data += more
    return data
