"""What dies or hangs under 32 streams ends them with an error, and is replaced: engine, stub, server."""

import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import (
    Server,
    long_form,
    processes_named,
    restarts_of,
    rounds,
    start_null_server,
    start_server,
    stop_server,
    wait_for,
)
from trireme_client import Client, TriremeError, Unavailable
from trireme_ops import processes
from trireme_ops.supervisor import STABLE_S

STREAMS = 32

#: A server that dies sooner after it was started is started again later and later.
STEADY_S = STABLE_S + 0.5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server to harm, which leaves nothing behind."""
    running = start_server(tmp_path_factory.mktemp("server"))
    yield running
    stop_server(running)
    pid, prefix = running.addresses["pid"], f"trireme_{running.addresses['pid']}_"
    assert not processes.is_alive(pid)
    assert not list(Path("/dev/shm").glob(f"{prefix}*"))


class Streams:
    """Streams that run for ever, and how each ended."""

    def __init__(self, server: Server, count: int = STREAMS) -> None:
        self.errors: list[TriremeError] = []
        self.ended_at: list[float] = []
        self.completed = 0
        self._clients = [Client(server.grpc, timeout_s=60) for _ in range(4)]
        self._streams = [
            self._clients[index % 4].stream(prompt=f"Count {index}", max_tokens=1900, end_id=-1)
            for index in range(count)
        ]
        first = [threading.Event() for _ in range(count)]
        self._threads = [
            threading.Thread(target=self._read, args=(stream, event))
            for stream, event in zip(self._streams, first, strict=True)
        ]
        for thread in self._threads:
            thread.start()
        # Some may wait for room in the engine.
        wait_for(lambda: sum(event.is_set() for event in first) >= count // 2)

    def _read(self, stream: Any, first: threading.Event) -> None:
        try:
            for _ in stream:
                first.set()
            self.completed += 1
        except TriremeError as error:
            self.errors.append(error)
        self.ended_at.append(time.monotonic())

    def wait(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        for client in self._clients:
            client.close()


def serves(server: Server) -> bool:
    try:
        with Client(server.grpc, timeout_s=10) as client:
            return client.generate(prompt="<|user|>Reverse: abc<|assistant|>", max_tokens=8).text == "cba"
    except TriremeError:
        return False


def answers(server: Server) -> bool:
    try:
        with Client(server.grpc, timeout_s=10) as client:
            return client.generate(prompt="abc", max_tokens=8, end_id=-1).num_output_tokens == 8
    except TriremeError:
        return False


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def engine_of(server: Server) -> int:
    (pid,) = processes_named(server, "openvino_child")
    return pid


def stub_of(server: Server, model: str) -> int:
    (pid,) = processes_named(server, f"/{model}/1/model.py")
    return pid


def check_round(
    server: Server,
    harm: Callable[[], None],
    ready_url: str,
    serves: Callable[[Server], bool] = serves,
    steady_s: float = 0.0,
) -> None:
    """Harm it under load: the streams end with an error soon, readiness fails, and it serves again.

    steady_s: how long it serves before.
    """
    assert status_of(ready_url) == 200
    steady_at = time.monotonic() + steady_s
    streams = Streams(server)
    wait_for(lambda: time.monotonic() > steady_at)
    began = time.monotonic()
    harm()
    wait_for(lambda: status_of(ready_url) == 503, 10, "readiness that fails")
    streams.wait()
    assert streams.errors
    assert all(isinstance(error, Unavailable) for error in streams.errors), streams.errors
    wait_for(lambda: serves(server), 60, "an answer")
    wait_for(lambda: status_of(ready_url) == 200, 60, "readiness")
    print(
        f"streams ended {max(streams.ended_at) - began:.2f} s, served again {time.monotonic() - began:.2f} s after it"
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_stopped_engine_is_replaced_in_the_same_server(server: Server, number: signal.Signals) -> None:
    ready = f"{server.health}/v2/models/tensorrt_llm/ready"
    triton, before = server.triton_pid(), restarts_of(server)
    cause = "hung" if number == signal.SIGSTOP else "ended"

    def lost() -> float:
        return server.metric("trireme_engine_restarts_total", cause=cause)

    for _ in range(rounds(1, 20)):
        engine, lost_before = engine_of(server), lost()
        check_round(server, lambda engine=engine: os.kill(engine, number), ready)  # type: ignore[misc]
        assert not processes.is_running(engine)
        wait_for(lambda before=lost_before: lost() == before + 1)  # type: ignore[misc]
    assert processes.is_running(triton)
    assert restarts_of(server) == before


@pytest.mark.parametrize(
    "model", ["tensorrt_llm", *(pytest.param(m, marks=long_form) for m in ("postprocessing", "preprocessing"))]
)
def test_a_dead_stub_restarts_the_server(server: Server, model: str) -> None:
    for _ in range(rounds(1, 7)):
        before = restarts_of(server)
        engine = engine_of(server)
        stub = stub_of(server, model)
        check_round(
            server,
            lambda stub=stub: os.kill(stub, signal.SIGKILL),
            f"{server.health}/v2/health/ready",
            steady_s=STEADY_S,
        )
        assert not processes.is_running(engine), "no engine outlives its stub"
        # The server may see it too, and abort before the supervisor ends it.
        assert sum(restarts_of(server).values()) == sum(before.values()) + 1


@pytest.mark.parametrize(
    "process", [*(pytest.param(p, marks=long_form) for p in ("preprocessing", "tensorrt_llm")), "tritonserver"]
)
def test_what_is_halted_counts_as_hung(server: Server, process: str) -> None:
    before = restarts_of(server)
    pid = server.triton_pid() if process == "tritonserver" else stub_of(server, process)
    check_round(server, lambda: os.kill(pid, signal.SIGSTOP), f"{server.health}/v2/health/ready", steady_s=STEADY_S)
    cause = "tritonserver" if process == "tritonserver" else "stub"
    assert restarts_of(server) == {**before, cause: before[cause] + 1}
    assert server.triton_pid() == json.loads(server.ready_file.read_text())["triton_pid"]


def test_readiness_knows_which_models_there_are(server: Server) -> None:
    for path, status in {
        "ensemble/ready": 200,
        "tensorrt_llm/versions/1/ready": 200,
        "tensorrt_llm/versions/7/ready": 404,
        "nobody/ready": 404,
        "../ready": 404,
    }.items():
        assert status_of(f"{server.health}/v2/models/{path}") == status, path


def test_a_dead_tritonserver_is_started_again(server: Server) -> None:
    for _ in range(rounds(1, 20)):
        before = restarts_of(server)
        engine = engine_of(server)
        triton = server.triton_pid()
        check_round(
            server,
            lambda triton=triton: os.kill(triton, signal.SIGKILL),
            f"{server.health}/v2/health/ready",
            steady_s=STEADY_S,
        )
        assert not processes.is_running(engine)
        assert restarts_of(server) == {**before, "tritonserver": before["tritonserver"] + 1}


@pytest.mark.parametrize("how", [pytest.param("sleep", marks=long_form), "spin"])
def test_an_engine_whose_step_never_returns_is_replaced(tmp_path: Path, how: str) -> None:
    """Of every engine process that is started, one step after many never returns, idle or busy."""
    settings = {"engine_hang_timeout_ms": "1500"}
    server = start_null_server(tmp_path, 50, settings, hang_after_steps=150, hang=how)
    try:
        triton = server.triton_pid()
        for count in range(rounds(1, 10)):
            check_round(server, lambda: None, f"{server.health}/v2/models/tensorrt_llm/ready", answers)
            wait_for(lambda: server.metric("trireme_engine_restarts_total", cause="hung") == count + 1)  # noqa: B023
        assert server.triton_pid() == triton
        assert restarts_of(server) == {"tritonserver": 0, "stub": 0}
    finally:
        stop_server(server)
