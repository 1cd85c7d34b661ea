"""Several servers behind a gateway: what is lost, what is retried, and who waits."""

import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gateway_runs import (
    Answer,
    Gateway,
    call,
    complete,
    open_stream,
    read_until,
    server_options,
    server_tables,
    started_gateway,
)
from support import Server, start_null_server, stop_server, wait_for
from trireme_client import Client

#: One token each 20 ms.
STEPS_PER_S = 50.0
ENDLESS = {"ignore_eos": True, "max_tokens": 1500}


@contextmanager
def null_servers(folder: Path, count: int, settings: dict[str, str] | None = None) -> Iterator[list[Server]]:
    """Servers with the null engine."""
    with ExitStack() as stack:
        servers = []
        for number in range(count):
            (folder / str(number)).mkdir(parents=True)
            server = start_null_server(folder / str(number), STEPS_PER_S, settings)
            stack.callback(stop_server, server)
            servers.append(server)
        yield servers


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Three servers; tests that end one wait until it is back."""
    with null_servers(tmp_path_factory.mktemp("three"), 3) as servers:
        yield servers


@pytest.fixture
def gateway(three: list[Server], tmp_path: Path) -> Iterator[Gateway]:
    """A gateway in front of them that asks them in turns."""
    with started_gateway(tmp_path, *server_options(*three), "--policy", "round_robin") as running:
        yield running
    for server in three:
        wait_until_ready(server)


def wait_until_ready(server: Server) -> None:
    """Until the supervisor says so."""
    import urllib.error
    import urllib.request

    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"{server.health}/v2/health/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    wait_for(ready, 180, "the server")


def ready_servers(gateway: Gateway) -> float:
    return gateway.metric("server_ready")


def test_requests_go_round(gateway: Gateway) -> None:
    servers = [complete(gateway, "x", max_tokens=1).headers["x-trireme-server"] for _ in range(9)]
    assert Counter(servers) == {"server-1": 3, "server-2": 3, "server-3": 3}


@pytest.mark.parametrize("stream", [True, False])
def test_what_has_not_begun_is_asked_of_another_server(gateway: Gateway, three: list[Server], stream: bool) -> None:
    """Its engine is halted, so that nothing begins there; then it is killed."""
    answers: list[Answer] = []
    before = gateway.metric("retries_total")
    pid = three[1].triton_pid()
    os.kill(pid, signal.SIGSTOP)
    fields = {"max_tokens": 3, "stream": stream}
    threads = [threading.Thread(target=lambda: answers.append(complete(gateway, "x", **fields))) for _ in range(12)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(answers) >= 6, 20, "the answers of the others")
    os.kill(pid, signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert [answer.status for answer in answers] == [200] * 12
    assert all(len(answer.text) for answer in answers)
    assert gateway.metric("retries_total") > before


def test_what_has_begun_ends_with_an_error(gateway: Gateway, three: list[Server]) -> None:
    with ExitStack() as stack:
        streams = [stack.enter_context(open_stream(gateway, {"prompt": "x", **ENDLESS})) for _ in range(6)]
        heads = [read_until(stream, b"data: ") for stream in streams]
        names = [head.split(b"x-trireme-server: ")[1].split(b"\r\n")[0].decode() for head in heads]
        assert sorted(names) == ["server-1"] * 2 + ["server-2"] * 2 + ["server-3"] * 2
        os.kill(three[0].triton_pid(), signal.SIGKILL)
        for name, stream in zip(names, streams, strict=True):
            if name == "server-1":
                # An error event, the end of the body, and no end that looks like one.
                rest = read_until(stream, b"\r\n0\r\n\r\n")
                error = json.loads(rest.split(b"data: ")[-1].split(b"\n\n")[0])["error"]
                assert error["type"] == "server_error"
                assert b"[DONE]" not in rest
            else:
                read_until(stream, b"data: ")
    # New requests go to the others meanwhile.
    assert {complete(gateway, "x", max_tokens=1).status for _ in range(6)} == {200}


def test_a_killed_server_is_asked_again_when_it_is_back(gateway: Gateway, three: list[Server]) -> None:
    wait_for(lambda: ready_servers(gateway) == 3, 30, "all three")
    os.kill(three[2].triton_pid(), signal.SIGKILL)
    wait_for(lambda: ready_servers(gateway) == 2, 5, "two of three")
    assert {complete(gateway, "x", max_tokens=1).headers["x-trireme-server"] for _ in range(6)} == {
        "server-1",
        "server-2",
    }
    wait_for(lambda: ready_servers(gateway) == 3, 60, "all three")
    assert len({complete(gateway, "x", max_tokens=1).headers["x-trireme-server"] for _ in range(6)}) == 3


def test_no_request_is_lost_while_servers_come_and_go(gateway: Gateway, three: list[Server]) -> None:
    wait_for(lambda: ready_servers(gateway) == 3, 30, "all three")
    ending, wrong, count = threading.Event(), [], Counter[int]()

    def ask(number: int) -> None:
        while not ending.is_set():
            answer = complete(gateway, f"{number}", max_tokens=3)
            count[answer.status] += 1
            if answer.status != 200:
                wrong.append(answer.body)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    try:
        for server in three[:2]:
            os.kill(server.triton_pid(), signal.SIGKILL)
            wait_for(lambda: ready_servers(gateway) == 2, 5, "two of three")
            wait_for(lambda: ready_servers(gateway) == 3, 120, "all three")
    finally:
        ending.set()
        for thread in threads:
            thread.join()
    assert not wrong, wrong[:3]
    assert count[200] > 100


def test_without_a_server_requests_are_told_to_come_back(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
        with started_gateway(tmp_path, "--server", f"{nobody},{nobody}") as gateway:
            assert call(gateway, "/health/live").status == 200
            assert call(gateway, "/health/ready").status == 503
            answer = complete(gateway, "x")
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert "no server is ready for ensemble" in answer.error["message"]


def test_a_server_without_a_supervisor_is_asked_for_its_own_readiness(three: list[Server], tmp_path: Path) -> None:
    with started_gateway(tmp_path, "--server", three[0].grpc) as gateway:
        assert complete(gateway, "x", max_tokens=1).status == 200


def test_a_gateway_that_ends_answers_what_it_has(three: list[Server], tmp_path: Path) -> None:
    with started_gateway(tmp_path, *server_options(*three)) as gateway, ExitStack() as stack:
        fields = {"prompt": "x", "ignore_eos": True, "max_tokens": 60}
        streams = [stack.enter_context(open_stream(gateway, fields)) for _ in range(4)]
        for stream in streams:
            read_until(stream, b"data: ")
        gateway.process.send_signal(signal.SIGTERM)
        for stream in streams:
            assert b'"finish_reason":"length"' in read_until(stream, b"[DONE]")
        assert gateway.process.wait(timeout=30) == 0


SMALL = {"max_num_sequences": "2", "max_queue_size": "64"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes two sequences at once."""
    with null_servers(tmp_path_factory.mktemp("small"), 1, SMALL) as (server,):
        yield server


def small_config(server: Server, **queue: int) -> str:
    """Of a gateway that gives it two at once."""
    lines = "".join(f"{key} = {value}\n" for key, value in {"spare_sequences": 0, **queue}.items())
    return f"{server_tables({'small': server})}[queue]\n{lines}"


def test_what_waits_goes_by_priority(small: Server, tmp_path: Path) -> None:
    with started_gateway(tmp_path, config=small_config(small)) as gateway:
        order: list[int] = []

        def ask(priority: int) -> None:
            fields = {"max_tokens": 25, "ignore_eos": True}
            assert complete(gateway, "x", {"x-trireme-priority": str(priority)}, **fields).status == 200
            order.append(priority)

        def start(priority: int) -> threading.Thread:
            waiting = gateway.metric("requests_waiting")
            thread = threading.Thread(target=ask, args=(priority,))
            thread.start()
            running = lambda: small.metric("trireme_requests_running") + small.metric("trireme_requests_waiting")  # noqa: E731
            if len(threads) < 2:
                wait_for(lambda: running() > len(threads), 10, "the request")
            else:
                wait_for(lambda: gateway.metric("requests_waiting") > waiting, 10, "the request in the queue")
            return thread

        threads: list[threading.Thread] = []
        with ExitStack() as stack:
            # They hold both places until all others wait.
            held = [stack.enter_context(open_stream(gateway, {"prompt": "x", **ENDLESS})) for _ in range(2)]
            for stream in held:
                read_until(stream, b"data: ")
            threads = [threading.Thread() for _ in range(2)]
            for priority in (-5, 5, 0, 9):
                threads.append(start(priority))
            for stream in held:
                stream.close()
        for thread in threads[2:]:
            thread.join()
        assert set(order[:2]) == {9, 5}
        assert set(order[2:]) == {0, -5}


def test_more_than_may_wait_is_turned_away_early(small: Server, tmp_path: Path) -> None:
    with started_gateway(tmp_path, config=small_config(small, max_size=3)) as gateway, ExitStack() as stack:
        held = [stack.enter_context(open_stream(gateway, {"prompt": "x", **ENDLESS})) for _ in range(2)]
        for stream in held:
            read_until(stream, b"data: ")
        waiting = [stack.enter_context(open_stream(gateway, {"prompt": "x", "max_tokens": 2})) for _ in range(3)]
        wait_for(lambda: gateway.metric("requests_waiting") == 3, 10, "the queue")
        began = time.monotonic()
        answer = complete(gateway, "x", max_tokens=2)
        assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded")
        assert int(answer.headers["retry-after"]) >= 1
        assert "at most 3 may" in answer.error["message"]
        assert time.monotonic() - began < 5
        for stream in held:
            stream.close()
        for stream in waiting:
            read_until(stream, b"[DONE]")


def test_a_server_that_others_fill_is_waited_for(small: Server, tmp_path: Path) -> None:
    """It refuses what it would let wait for more than 250 ms; here the request waits on."""
    with started_gateway(tmp_path, config=small_config(small, spare_sequences=4)) as gateway, ExitStack() as stack:
        with Client(small.grpc) as direct:
            others = [direct.stream(prompt="x", max_tokens=100, end_id=-1) for _ in range(2)]
            for other in others:
                next(other)
            fields = {"prompt": "x", "max_tokens": 30, "ignore_eos": True}
            asked = [stack.enter_context(open_stream(gateway, fields)) for _ in range(8)]
            for connection in asked:
                assert b'"finish_reason":"length"' in read_until(connection, b"[DONE]")
            for other in others:
                list(other)
        assert gateway.metric("retries_total") == 0
        assert gateway.metric("tokens_total", kind="answer") == 8 * 30


def test_a_deadline_that_passes_while_a_request_waits(small: Server, tmp_path: Path) -> None:
    with started_gateway(tmp_path, config=small_config(small)) as gateway, ExitStack() as stack:
        held = [stack.enter_context(open_stream(gateway, {"prompt": "x", **ENDLESS})) for _ in range(2)]
        for stream in held:
            read_until(stream, b"data: ")
        late = complete(gateway, "x", {"x-trireme-deadline-ms": "300"}, max_tokens=2)
        assert (late.status, late.error["code"]) == (504, "deadline_exceeded")
        assert gateway.metric("requests_waiting") == 0


def test_settings_are_read_again(three: list[Server], tmp_path: Path) -> None:
    config = server_tables({"a": three[0]})
    with started_gateway(tmp_path, config=config) as gateway:
        assert gateway.config is not None
        with open_stream(gateway, {"prompt": "x", "ignore_eos": True, "max_tokens": 100}) as stream:
            read_until(stream, b"data: ")
            gateway.config.write_text(server_tables({"b": three[1]}) + '[[model]]\nid = "gpt"\nllm = "ensemble"\n')
            gateway.process.send_signal(signal.SIGHUP)
            wait_for(lambda: "the settings were read again" in gateway.log, 20, "the settings")
            answer = call(gateway, "/v1/completions", {"model": "gpt", "prompt": "x", "max_tokens": 1})
            assert (answer.status, answer.headers["x-trireme-server"]) == (200, "b")
            assert complete(gateway, "x").status == 404
            # What was under way on the other server ends there.
            assert b'"finish_reason":"length"' in read_until(stream, b"[DONE]")
        gateway.config.write_text("policy = 5\n")
        gateway.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "the settings stay as they were" in gateway.log, 20, "the refusal")
        assert call(gateway, "/v1/completions", {"model": "gpt", "prompt": "x", "max_tokens": 1}).status == 200


def test_many_streams_are_open_at_once(tmp_path: Path) -> None:
    settings = {"max_num_sequences": "512", "max_tokens_in_paged_kv_cache": "2097152"}
    with ExitStack() as stack:
        (server,) = stack.enter_context(null_servers(tmp_path / "servers", 1, settings))
        gateway = stack.enter_context(started_gateway(tmp_path / "gateway", *server_options(server)))
        before = gateway.resident_bytes()
        streams = [stack.enter_context(open_stream(gateway, {"prompt": "x", **ENDLESS})) for _ in range(500)]
        for stream in streams:
            read_until(stream, b"data: ")
        assert gateway.metric("requests_running") == 500
        assert gateway.resident_bytes() - before < 500 * (200 << 10)
        for stream in streams:
            stream.close()
        wait_for(lambda: gateway.metric("requests_running") == 0, 30, "the end of the streams")
        wait_for(lambda: server.metric("trireme_requests_running") == 0, 30, "the end of the generations")
