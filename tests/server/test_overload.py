"""More work than can be done: refused at once, in words; the rest is served as before, in order of priority."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from raw import connected, read
from support import Server, metric_of, start_null_server, stop_server, wait_for
from trireme_client import Client, ResourceExhausted
from trireme_runtime.contract import Code, Refusal

#: What the engine runs at once, and what may wait for it.
RUNNING, WAITING = 4, 8


@pytest.fixture(scope="module")
def null_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An engine of 200 steps a second."""
    settings = {"max_num_sequences": str(RUNNING), "max_queue_size": str(WAITING), "max_queue_delay_ms": "60000"}
    running = start_null_server(tmp_path_factory.mktemp("null"), 200, settings)
    yield running
    stop_server(running)


def values(**further: Any) -> dict[str, Any]:
    return {"text_input": "x", "max_tokens": 2000, "end_id": -1, "stream": True, **further}


def test_a_full_queue_refuses_before_tokenization_and_by_priority(null_server: Server) -> None:
    def refused(model: str) -> float:
        return null_server.metric("trireme_requests_refused_total", model=model, code="RESOURCE_EXHAUSTED")

    before = refused("preprocessing")
    with connected(null_server.grpc) as raw:
        calls = [raw.start("ensemble", f"r{index}", **values()) for index in range(RUNNING)]
        for call in calls[:RUNNING]:
            next(call)
        calls += [raw.start("ensemble", f"w{index}", **values(max_tokens=5)) for index in range(WAITING)]
        wait_for(lambda: null_server.metric("trireme_requests_waiting") == WAITING)
        began = time.monotonic()
        for _ in range(20):
            with pytest.raises(Refusal, match=f"{WAITING} requests wait; at most {WAITING} may") as caught:
                raw.stream("ensemble", **values())
            assert caught.value.code is Code.RESOURCE_EXHAUSTED
            assert (caught.value.retry_after_ms or 0) >= 50
        print(f"{(time.monotonic() - began) / 20 * 1000:.1f} ms a refusal")
        assert refused("preprocessing") - before == 20
        with Client(null_server.grpc) as client, pytest.raises(ResourceExhausted) as refusal:
            client.generate(prompt="x", max_tokens=5)
        assert refusal.value.retry_after_ms is not None
        # One that goes first takes the place of the last that waits.
        urgent = raw.start("ensemble", "urgent", **values(max_tokens=5, priority=5))
        with pytest.raises(Refusal, match="requests of a higher priority wait"):
            list(read(calls[-1]))
        order: list[str] = []

        def follow(name: str, call: Any) -> None:
            next(call)
            order.append(name)

        waiting = [("urgent", urgent), *((f"w{i}", call) for i, call in enumerate(calls[RUNNING:-1]))]
        threads = [threading.Thread(target=follow, args=entry) for entry in waiting]
        for thread in threads:
            thread.start()
        # One place for now.
        calls[0].cancel()
        wait_for(lambda: order)
        assert order[0] == "urgent"
        for call in calls[1:RUNNING]:
            call.cancel()
        for thread in threads:
            thread.join(30)
        assert len(order) == WAITING
    wait_for(lambda: null_server.metric("trireme_requests_running") == 0)


def test_a_deadline_that_passes_in_the_queue_is_never_started(null_server: Server) -> None:
    with connected(null_server.grpc) as raw:
        calls = [raw.start("ensemble", **values()) for _ in range(RUNNING)]
        for call in calls:
            next(call)
        before = null_server.metric("trireme_request_output_tokens_sum")
        with pytest.raises(Refusal, match="deadline_ms: 100 ms have passed, in the queue") as caught:
            raw.stream("ensemble", **values(deadline_ms=100))
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        wait_for(lambda: null_server.metric("trireme_requests_finished_total", finish_reason="error") >= 1)
        assert null_server.metric("trireme_request_output_tokens_sum") == before
        for call in calls:
            call.cancel()
    wait_for(lambda: null_server.metric("trireme_requests_running") == 0)


def test_a_client_that_stops_reading_holds_nobody_up(null_server: Server) -> None:
    def resident_kib() -> int:
        lines = Path(f"/proc/{null_server.triton_pid()}/status").read_text().splitlines()
        lines = [line for line in lines if line.startswith("VmRSS")]
        return int(lines[0].split()[1])

    options = [
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", 1024),
        ("grpc.max_receive_message_length", -1),
    ]
    with connected(null_server.grpc) as raw, grpc.insecure_channel(null_server.grpc, options=options) as channel:
        from raw import Raw

        before = resident_kib()
        slow = Raw(channel).start("ensemble", **values(max_tokens=2000))
        next(slow)
        began = time.monotonic()
        assert sum(1 for _ in raw.start("ensemble", **values(max_tokens=100))) >= 2
        alone_s = 100 / 200
        assert time.monotonic() - began < 3 * alone_s + 2
        wait_for(lambda: null_server.metric("trireme_requests_running") == 0, 90)
        assert resident_kib() - before < 16 * 1024
        text = sum(1 for _ in slow)
        assert text > 1, "it is all there for it to read"


def test_what_is_seen_from_outside(null_server: Server) -> None:
    with connected(null_server.grpc) as raw:
        before = null_server.metric("trireme_time_to_first_token_seconds_count")
        raw.stream("ensemble", **values(max_tokens=20))
        labels = {"model": "tensorrt_llm", "version": "1"}

        def count(name: str) -> float:
            return metric_of(null_server.metrics, f"{name}_count", **labels)

        wait_for(lambda: count("trireme_time_to_first_token_seconds") == before + 1)
        for name in ("inter_token_seconds", "queue_seconds", "request_prompt_tokens", "request_output_tokens"):
            wait_for(lambda name=name: count(f"trireme_{name}") > 0)  # type: ignore[misc]
        assert metric_of(null_server.metrics, "trireme_kv_cache_blocks_total", **labels) == 1024
        assert metric_of(null_server.metrics, "trireme_engine_up", **labels) == 1
        finished = "trireme_requests_finished_total"
        assert metric_of(null_server.metrics, finished, finish_reason="length", **labels) >= 1
