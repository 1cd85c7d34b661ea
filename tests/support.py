"""What tests share: starting real servers on ports that the system gives, and waiting for conditions."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from trireme_ops.bench.root import NullModel, copy_repositories, use_null_engine
from trireme_ops.layout import Layout
from trireme_ops.processes import session_members

ROOT = Path(__file__).resolve().parents[1]
TRIREME = Path(sys.executable).parent / "trireme"
CHECKPOINT = ROOT / "build" / "checkpoints" / "trireme-reference"
ANY_PORTS = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--health-port", "0")


#: For tests that only the long form of the suite runs.
long_form = pytest.mark.skipif(not os.environ.get("TRIREME_LONG"), reason="long form: make test-long")


def rounds(short: int, long: int) -> int:
    """How often to repeat something: more in the long form of the suite (make test-long)."""
    return long if os.environ.get("TRIREME_LONG") else short


def wait_for(condition: Callable[[], Any], timeout_s: float = 30, what: str = "the condition") -> Any:
    """The first true value of `condition`; fails the test if none comes in time."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come true within {timeout_s} s")
        time.sleep(0.02)
    return value


def metric_of(url: str, name: str, **labels: str) -> float:
    """The sum of a metric at a Prometheus endpoint, over those samples that have `labels`."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith((f"{name}{{", f"{name} "))
        and all(f'{key}="{value}"' in line for key, value in labels.items())
    )


@dataclass(frozen=True)
class Server:
    """A running `trireme serve`."""

    process: "subprocess.Popen[str]"
    addresses: dict[str, Any]
    ready_file: Path

    @property
    def grpc(self) -> str:
        """host:port."""
        return str(self.addresses["grpc"])

    @property
    def http(self) -> str:
        """The base URL."""
        return f"http://{self.addresses['http']}"

    @property
    def metrics(self) -> str:
        """The URL of the metrics."""
        return f"http://{self.addresses['metrics']}/metrics"

    @property
    def health(self) -> str:
        """The base URL of the supervisor's endpoint."""
        return f"http://{self.addresses['health']}"

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over its labels, of those samples that have `labels`."""
        return metric_of(self.metrics, name, **labels)

    def triton_pid(self) -> int:
        """Process id of the tritonserver that runs now."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        (pid,) = (int(pid) for pid in children if "bin/tritonserver" in Path(f"/proc/{pid}/cmdline").read_text())
        return pid

    def session(self) -> list[int]:
        """The processes of tritonserver's session."""
        if self.process.poll() is not None:
            return session_members(self.addresses["triton_pid"])
        return session_members(self.triton_pid())

    def regions(self) -> list[Path]:
        """Its shared memory."""
        return list(Path("/dev/shm").glob(f"trireme_{self.addresses['pid']}_*"))


def start_server(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> Server:
    """Start `trireme serve` on free ports and wait until it is ready."""
    ready = folder / "ready.json"
    command = [TRIREME, "serve", *ANY_PORTS, "--ready-file", ready, "--log", folder / "triton.log", *arguments]
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(env or {})},
    )
    # Longer than it waits itself, so that its own words are seen.
    deadline = time.monotonic() + 150
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"trireme serve did not become ready: {process.communicate()[0]}")
        time.sleep(0.05)
    return Server(process, json.loads(ready.read_text()), ready)


def restarts_of(server: Server) -> dict[str, int]:
    """How often the supervisor started the server again, by cause."""
    name = "trireme_server_restarts_total"
    return {c: int(metric_of(f"{server.health}/metrics", name, cause=c)) for c in ("tritonserver", "stub")}


def stop_server(server: Server) -> str:
    """Stop it with SIGTERM; what it printed."""
    if server.process.poll() is None:
        server.process.send_signal(signal.SIGTERM)
    return server.process.communicate(timeout=60)[0]


def start_null_server(folder: Path, steps_per_s: float, settings: dict[str, str] | None = None, **more: Any) -> Server:
    """A server with the null engine; settings: parameters of `tensorrt_llm`; more: of the engine's config.json."""
    layout = copy_repositories(Layout(ROOT), folder / "root", settings or {})
    tokenizer = ROOT / "model_repository" / "postprocessing" / "1" / "tokenizer"
    use_null_engine(layout, replace(NullModel.of_tokenizer(tokenizer, steps_per_s), **more))
    return start_server(folder, env={"TRIREME_ROOT": str(layout.root)})


def processes_named(server: Server, part: str) -> list[int]:
    """The processes of a server that have this in their command line."""
    found = []
    for pid in server.session():
        try:
            if part in Path(f"/proc/{pid}/cmdline").read_text():
                found.append(pid)
        except OSError:
            continue
    return found
