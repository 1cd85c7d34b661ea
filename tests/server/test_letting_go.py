"""However a client goes, its generations end in the engine: no tokens are computed for it, and its blocks are free."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raw import Raw, connected, infer_request
from support import Server, start_null_server, stop_server, wait_for
from trireme_client import AsyncClient, AsyncStream, Client, Generation, InvalidArgument, Stream
from trireme_client.calls import END_S

STEPS_PER_S = 20.0
STREAMS, VANISHING = 32, 16
#: What those that stay ask for, and after how many tokens the others go.
TOKENS, SEEN = 60, 10


@pytest.fixture(scope="module")
def null_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An engine of 20 steps a second, each of one token for every stream."""
    running = start_null_server(tmp_path_factory.mktemp("null"), STEPS_PER_S)
    yield running
    stop_server(running)


def values(**further: Any) -> dict[str, Any]:
    return {"text_input": "x", "max_tokens": 1000, "end_id": -1, "stream": True, **further}


Vanish = Callable[[], None]


def over_grpc(server: Server, stack: ExitStack) -> Vanish:
    raw = stack.enter_context(connected(server.grpc))
    calls = [raw.start("ensemble", **values()) for _ in range(VANISHING)]
    for _ in range(SEEN):
        for call in calls:
            next(call)
    return lambda: [call.cancel() for call in calls] and None


CLIENT = """
import sys
sys.path.insert(0, {tests!r})
from raw import connected
with connected({address!r}) as raw:
    calls = [raw.start("ensemble", **{values!r}) for _ in range({count})]
    for _ in range({seen}):
        for call in calls:
            next(call)
    print("seen", flush=True)
    for call in calls:
        for _ in call:
            pass
"""


def in_a_process_that_is_killed(server: Server, stack: ExitStack) -> Vanish:
    code = CLIENT.format(
        tests=str(__file__).rpartition("/server/")[0],
        address=server.grpc,
        values=values(),
        count=VANISHING,
        seen=SEEN,
    )
    process = stack.enter_context(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True))
    assert process.stdout is not None
    assert process.stdout.readline() == "seen\n"
    return lambda: process.send_signal(signal.SIGKILL)


def over_http(server: Server, stack: ExitStack) -> Vanish:
    body = json.dumps(values()).encode()
    head = f"POST /v2/models/ensemble/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    host, port = server.addresses["http"].split(":")
    sockets = []
    for _ in range(VANISHING):
        connection = stack.enter_context(socket.create_connection((host, int(port))))
        connection.sendall(head.encode() + body)
        sockets.append(connection)
    for connection in sockets:
        received = b""
        while received.count(b"data: ") < SEEN:
            received += connection.recv(65536)
    return lambda: [connection.close() for connection in sockets] and None


def by_stop(server: Server, stack: ExitStack) -> Vanish:
    raw = stack.enter_context(connected(server.grpc))
    calls = [raw.start("ensemble", f"mine-{index}", **values()) for index in range(VANISHING)]
    for _ in range(SEEN):
        for call in calls:
            next(call)

    def vanish() -> None:
        stops = (infer_request("tensorrt_llm", f"mine-{index}", stop=True) for index in range(VANISHING))
        assert not [answer.error_message for answer in raw.stub.ModelStreamInfer(stops, timeout=30)]

    # A call that nobody refers to is cancelled.
    stack.callback(calls.clear)
    return vanish


def by_timeout(server: Server, stack: ExitStack) -> Vanish:
    raw = stack.enter_context(connected(server.grpc))
    requests = [infer_request("ensemble", **values()) for _ in range(VANISHING)]
    calls = [raw.stub.ModelStreamInfer(iter([request]), timeout=(SEEN + 4) / STEPS_PER_S) for request in requests]
    for call in calls:
        next(call)
    stack.callback(calls.clear)
    return lambda: None


def by_deadline(server: Server, stack: ExitStack) -> Vanish:
    raw = stack.enter_context(connected(server.grpc))
    deadline_ms = int(1000 * SEEN / STEPS_PER_S)
    calls = [raw.start("ensemble", **values(deadline_ms=deadline_ms)) for _ in range(VANISHING)]
    for call in calls:
        next(call)
    stack.callback(calls.clear)
    return lambda: None


WAYS = {
    "client": (over_grpc, in_a_process_that_is_killed, over_http, by_timeout),
    "stop": (by_stop,),
    "deadline": (by_deadline,),
}


@pytest.mark.alone
@pytest.mark.parametrize(("cause", "way"), [(cause, way) for cause, ways in WAYS.items() for way in ways])
def test_16_of_32_streams_vanish(null_server: Server, cause: str, way: Callable[[Server, ExitStack], Vanish]) -> None:
    def generated() -> float:
        return null_server.metric("trireme_generated_tokens_total")

    wait_for(lambda: null_server.metric("trireme_requests_running") == 0)
    before, cancelled_before = generated(), null_server.metric("trireme_requests_cancelled_total", cause=cause)
    with ExitStack() as stack:
        staying: Raw = stack.enter_context(connected(null_server.grpc))
        calls = [staying.start("ensemble", **values(max_tokens=TOKENS)) for _ in range(STREAMS - VANISHING)]
        for call in calls:
            next(call)
        vanish = way(null_server, stack)
        wait_for(lambda: null_server.metric("trireme_kv_cache_blocks_used") >= STREAMS)
        vanish()
        wait_for(lambda: null_server.metric("trireme_requests_running") <= STREAMS - VANISHING)
        counted = [sum(1 for _ in call) for call in calls]
        assert all(counted), "the others go on"
    wait_for(lambda: null_server.metric("trireme_requests_running") == 0)
    wait_for(lambda: null_server.metric("trireme_kv_cache_blocks_used") == 0)
    for_the_dead = generated() - before - TOKENS * (STREAMS - VANISHING)
    # A client sees a token a moment after the engine computed it, and goes at the next one.
    slack = 4 if way is by_timeout else 2
    print(f"{way.__name__}: {for_the_dead / VANISHING - SEEN:.1f} tokens a stream beyond those that were seen")
    assert for_the_dead <= VANISHING * (SEEN + 2 + slack)

    def cancelled() -> float:
        return null_server.metric("trireme_requests_cancelled_total", cause=cause) - cancelled_before

    wait_for(lambda: cancelled() == VANISHING)


@pytest.mark.alone
def test_those_that_stay_speed_up(server: Server) -> None:
    with connected(server.grpc) as raw:

        def tokens_per_s(calls: list[Any]) -> float:
            before, began = server.metric("trireme_generated_tokens_total"), time.monotonic()
            while time.monotonic() - began < 1.0:
                for call in calls:
                    next(call)
            return (server.metric("trireme_generated_tokens_total") - before) / (time.monotonic() - began)

        for _ in range(4):
            # The machine may be busy with something else for a moment.
            calls = [raw.start("ensemble", **values(text_input=f"{i}", max_tokens=1900)) for i in range(STREAMS)]
            for call in calls:
                next(call)
            together = tokens_per_s(calls) / STREAMS
            for call in calls[VANISHING:]:
                call.cancel()
            wait_for(lambda: server.metric("trireme_requests_running") == STREAMS - VANISHING)
            alone = tokens_per_s(calls[:VANISHING]) / (STREAMS - VANISHING)
            for call in calls:
                call.cancel()
            wait_for(lambda: server.metric("trireme_requests_running") == 0)
            if alone > 1.2 * together:
                return
    pytest.fail(f"{alone:.1f} tokens/s a stream, after {together:.1f} with twice as many")


def to_its_last_response(stream: Stream) -> None:
    left = 2
    while left:
        left -= next(stream).finish_reason is not None


async def to_its_last_response_async(stream: AsyncStream) -> None:
    left = 2
    while left:
        left -= (await anext(stream)).finish_reason is not None


def test_who_leaves_behind_the_last_response_keeps_nothing_loaded(tmp_path: Path) -> None:
    server = start_null_server(tmp_path, 0.0)
    refused = Generation(prompt="x", max_tokens=2, tensors={"bad_words": ["x"]})
    answered = Generation(prompt="x", max_tokens=2, n=2)

    def leave() -> None:
        with Client(server.grpc, timeout_s=30) as client:
            for _ in range(10):
                with client.stream(answered) as stream:
                    to_its_last_response(stream)
                with pytest.raises(InvalidArgument):
                    next(client.stream(refused))
                to_its_last_response(client.stream(answered))
                stream = client.stream(answered)
                to_its_last_response(stream)
                stream.close()

    async def leave_async() -> None:
        async with AsyncClient(server.grpc, timeout_s=30) as client:
            for _ in range(10):
                async with client.stream(answered) as stream:
                    await to_its_last_response_async(stream)
                with pytest.raises(InvalidArgument):
                    await anext(client.stream(refused))
                await to_its_last_response_async(client.stream(answered))
                stream = client.stream(answered)
                await to_its_last_response_async(stream)
                stream.close()

    try:
        leave()
        asyncio.run(leave_async())
    finally:
        stop_server(server)
    # Triton waits in vain for an ensemble that it cannot unload.
    assert "Exit timeout expired" not in (tmp_path / "triton.log").read_text(errors="replace")


def test_who_leaves_while_one_of_two_sequences_is_under_way_ends_it_at_once(null_server: Server) -> None:
    def running() -> float:
        return null_server.metric("trireme_requests_running")

    generation = Generation(prompt="x", max_tokens=1900, n=2, temperature=1.0, seed=0)
    with Client(null_server.grpc, timeout_s=60) as client:
        # The second sequence begins at the second token of the first.
        first = client.generate(replace(generation, max_tokens=1, n=1)).text
        stream = client.stream(replace(generation, stop=(first,)))
        while next(stream).finish_reason is None:
            pass
        before = time.monotonic()
        stream.close()
        assert time.monotonic() - before < END_S / 2, "it was waited for"
    wait_for(lambda: running() == 0)
