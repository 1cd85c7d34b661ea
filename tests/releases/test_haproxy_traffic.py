"""A real HAProxy in front of three real servers: shares, draining, and the death of a server under load."""

import asyncio
import http.client
import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing

import grpc
import pytest

from haproxy_runs import RunningHAProxy, proxied, started
from slow_bodies import slow_bodies
from support import Server, long_form, start_null_server, stop_server, wait_for
from trireme_client import AsyncClient
from trireme_ops.releases.haproxy import ServerState, real_percent, share_weights

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    # What two servers get when the third one dies waits, and is not refused.
    patient = {"max_queue_delay_ms": "60000"}
    with ExitStack() as stack:
        running = {}
        for name in NAMES:
            running[name] = start_null_server(tmp_path_factory.mktemp(name), 200, patient)
            stack.callback(stop_server, running[name])
        yield running


@pytest.fixture
def haproxy(servers: dict[str, Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHAProxy]:
    folder = tmp_path_factory.mktemp("haproxy")
    with started(folder, [proxied(name, server) for name, server in servers.items()]) as running:
        wait_for(lambda: all(weight.is_up for weight in running.api.weights("grpc").values()), 20, "the servers")
        yield running


async def ask(client: AsyncClient, streams: bool, max_tokens: int) -> int:
    """The number of tokens of an answer."""
    if not streams:
        return (await client.generate(prompt="Row", max_tokens=max_tokens, end_id=-1)).num_output_tokens
    async with client.stream(prompt="Row", max_tokens=max_tokens, end_id=-1) as stream:
        async for _ in stream:
            pass
        return stream.completion.num_output_tokens


async def ask_many(address: str, calls: int, streams: bool, max_tokens: int = 4) -> list[int]:
    """Answers to calls of which 16 are under way at a time, over one channel."""
    at_once = asyncio.Semaphore(16)
    async with AsyncClient(address, timeout_s=60) as client:

        async def one() -> int:
            async with at_once:
                return await ask(client, streams, max_tokens)

        return list(await asyncio.gather(*(one() for _ in range(calls))))


@pytest.mark.parametrize(
    "streams", [pytest.param(False, marks=long_form, id="unary"), pytest.param(True, id="streaming")]
)
def test_calls_over_one_channel_are_shared_by_weight(haproxy: RunningHAProxy, streams: bool) -> None:
    weights = {**share_weights(["b"], ["a"], 10), "c": 0}
    assert real_percent(weights, ["b"]) == 10
    for name, weight in weights.items():
        haproxy.api.set_weight("grpc", name, weight)
    assert asyncio.run(ask_many(haproxy.grpc, 300, streams)) == [4] * 300
    asked = {name: stats.requests for name, stats in haproxy.api.stats("grpc").items()}
    assert asked["c"] == 0
    assert sum(asked.values()) == 300
    assert asked["b"] == pytest.approx(30, abs=1)


def test_draining_under_load_loses_nothing(haproxy: RunningHAProxy) -> None:
    async def drain_and_return() -> None:
        async with AsyncClient(haproxy.grpc, timeout_s=60) as client:
            running = [asyncio.create_task(ask(client, number % 2 == 0, 200)) for number in range(24)]
            # It takes a second; one of three goes to b.
            while not haproxy.api.stats("grpc")["b"].running:
                await asyncio.sleep(0.01)
            haproxy.api.set_state("grpc", "b", ServerState.DRAIN)
            before = haproxy.api.stats("grpc")["b"]
            assert before.running
            assert await ask_many(haproxy.grpc, 60, streams=True) == [4] * 60
            assert await ask_many(haproxy.grpc, 60, streams=False) == [4] * 60
            assert haproxy.api.stats("grpc")["b"].requests == before.requests
            assert await asyncio.gather(*running) == [200] * 24

    asyncio.run(drain_and_return())
    assert haproxy.api.stats("grpc")["b"].running == 0
    haproxy.api.set_state("grpc", "b", ServerState.READY)
    asyncio.run(ask_many(haproxy.grpc, 6, streams=True))
    assert haproxy.api.weights("grpc")["b"].effective == 100


def test_headers_that_harm_do_not_pass(haproxy: RunningHAProxy, servers: dict[str, Server]) -> None:
    """Of the control APIs not even one with the right key; and the header that crashes Triton goes nowhere."""
    key = next(iter(servers["a"].ready_file.parent.glob("root/.trireme/control.key"))).read_text().strip()
    index = urllib.request.Request(
        f"{haproxy.http}/v2/repository/index", data=b"{}", headers={"trireme-control": key}, method="POST"
    )
    for name in ("b", "c"):
        haproxy.api.set_state("http", name, ServerState.MAINT)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(index, timeout=10)
    caught.value.close()
    assert caught.value.code in (400, 403, 503)
    assert haproxy.api.stats("http")["a"].requests == 1

    with grpc.insecure_channel(haproxy.grpc) as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        assert list(call(iter([b"\x0a\x04none"]), metadata=[("triton_grpc_error", "true")], timeout=10))


def test_a_body_that_crashes_triton_does_not_reach_it(haproxy: RunningHAProxy) -> None:
    request = urllib.request.Request(f"{haproxy.http}/v2/models/ensemble/generate", data=b"x" * 2_000_000)
    with pytest.raises((urllib.error.HTTPError, ConnectionError, urllib.error.URLError)) as caught:
        urllib.request.urlopen(request, timeout=10)
    if isinstance(caught.value, urllib.error.HTTPError):
        caught.value.close()
        assert caught.value.code == 413
    assert sum(stats.requests for stats in haproxy.api.stats("http").values()) == 0


def ask_http(address: str, behind_s: float) -> int:
    """The number of tokens of an answer over HTTP; the request's body comes `behind_s` seconds after its head."""
    body = json.dumps({"text_input": "Row", "max_tokens": 100, "end_id": -1}).encode()
    with closing(http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)) as connection:
        connection.putrequest("POST", "/v2/models/ensemble_unary/generate")
        connection.putheader("content-length", str(len(body)))
        connection.endheaders()
        time.sleep(behind_s)
        connection.send(body)
        with connection.getresponse() as response:
            text = response.read()
            assert response.status == 200, text
            return int(json.loads(text)["num_output_tokens"])


def test_a_killed_server_loses_no_unary_call(haproxy: RunningHAProxy, servers: dict[str, Server]) -> None:
    """kill -9 of `serve` in the middle of calls, tritonserver goes with it: they are asked again of another server.

    Also where HAProxy had a call's head before its body.
    """

    def running(way: str) -> int:
        return haproxy.api.stats(way)["c"].running

    async def kill_under_load(late: str) -> tuple[list[int | BaseException], int]:
        async with AsyncClient(haproxy.grpc, timeout_s=60) as client, AsyncClient(late, timeout_s=60) as late_client:
            first = [asyncio.create_task(ask(client, False, 100)) for _ in range(30)]
            while running("grpc") < 5:
                await asyncio.sleep(0.01)
            first += [asyncio.create_task(ask(late_client, False, 100)) for _ in range(15)]
            first += [asyncio.create_task(asyncio.to_thread(ask_http, haproxy.http, 0.02)) for _ in range(6)]
            while running("grpc") < 15 or running("http") < 2:
                await asyncio.sleep(0.01)
            under_way = running("grpc")
            os.kill(servers["c"].process.pid, signal.SIGKILL)
            more = [asyncio.create_task(ask(client, False, 100)) for _ in range(90)]
            return await asyncio.gather(*first, *more, return_exceptions=True), under_way

    with slow_bodies(haproxy.grpc, 0.02) as late:
        answers, under_way = asyncio.run(kill_under_load(late))
    lost = [answer for answer in answers if isinstance(answer, BaseException)]
    assert not lost, (lost[0], len(lost), haproxy.api.stats("grpc"))
    assert answers == [100] * 141
    assert haproxy.api.stats("grpc")["c"].redispatches >= under_way
    wait_for(lambda: not haproxy.api.weights("grpc")["c"].is_up, 10, "HAProxy to notice")
