"""The exact cache: hits, misses, joined requests, streams that replay, and Redis that comes and goes."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway_runs import Answer, Gateway, chat, complete, open_stream, read_until, server_options, started_gateway
from raw import ask
from service_runs import redis
from support import Server, start_null_server, stop_server, wait_for
from trireme_gateway.cache.store import MemoryStore
from trireme_gateway.settings import CacheSettings
from trireme_ops.ports import free_ports

GREEDY = {"temperature": 0}


def outcome(answer: Answer) -> str:
    assert answer.status == 200, answer.body
    return answer.headers["x-trireme-cache"]


def stripped(answer: Answer) -> Any:
    """What must be the same from the cache: all but ids and times."""
    events = answer.events if answer.headers["content-type"].startswith("text/event-stream") else [answer.json]
    return [{key: value for key, value in event.items() if key not in ("id", "created")} for event in events]


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose answers take a while: 50 tokens a second."""
    running = start_null_server(tmp_path_factory.mktemp("slow"), 50.0)
    yield running
    stop_server(running)


@pytest.fixture(scope="module")
def cached(slow: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway in front of it, with its cache in memory."""
    with started_gateway(tmp_path_factory.mktemp("cached"), *server_options(slow)) as running:
        yield running


@pytest.mark.parametrize("fields", [GREEDY, {"seed": 5, "temperature": 1.5}, {**GREEDY, "n": 2}])
def test_the_same_again_is_a_hit(gateway: Gateway, fields: dict[str, Any]) -> None:
    fields = {**fields, "user": "hits", "logprobs": True}
    first = chat(gateway, "Repeat: 你好 👋", **fields)
    second = chat(gateway, "Repeat: 你好 👋", **fields)
    assert (outcome(first), outcome(second)) == ("miss", "hit")
    assert stripped(first) == stripped(second)
    assert "x-trireme-server" not in second.headers


def test_a_stream_replays_as_a_stream(gateway: Gateway) -> None:
    fields = {**GREEDY, "stream": True, "stream_options": {"include_usage": True}}
    first, second = (complete(gateway, ask("Count from 1 to 9."), **fields) for _ in range(2))
    assert (outcome(first), outcome(second)) == ("miss", "hit")
    assert stripped(first) == stripped(second)
    assert len(first.events) > 5
    # The same answer, whole.
    whole = complete(gateway, ask("Count from 1 to 9."), **GREEDY)
    assert (outcome(whole), whole.text) == ("hit", first.text)
    assert whole.json["usage"] == first.events[-1]["usage"]


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": 31},
        {"stop": "7"},
        {"presence_penalty": 0.5},
        {"seed": 3},
        {"guided_regex": "[0-9 ]+"},
        {"prompt": ask("Sort: 9 3 7 2")},
        {"logprobs": 0},
        {"echo": True},
        {"n": 2},
        {"min_tokens": 2},
        {"bad_words": ["9"]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_the_answer_is_another_question(gateway: Gateway, change: dict[str, Any]) -> None:
    base = {"prompt": ask("Sort: 9 3 7 1"), "max_tokens": 30, **GREEDY}
    assert outcome(complete(gateway, **base)) in ("miss", "hit")
    assert outcome(complete(gateway, **base)) == "hit"
    assert outcome(complete(gateway, **{**base, **change})) == "miss"


def test_what_is_drawn_by_chance_is_not_kept(gateway: Gateway) -> None:
    for fields in ({"temperature": 1.0}, {}):
        assert [outcome(chat(gateway, "Reverse: stream", **fields)) for _ in range(2)] == ["bypass"] * 2


@pytest.mark.parametrize("header", ["no-cache", "no-store"])
def test_a_client_may_refuse_the_cache(gateway: Gateway, header: str) -> None:
    question = f"Reverse: {header}"
    assert outcome(chat(gateway, question, {"cache-control": header}, **GREEDY)) == "bypass"
    assert outcome(chat(gateway, question, **GREEDY)) == "miss"
    assert outcome(chat(gateway, question, {"cache-control": header}, **GREEDY)) == "bypass"


def test_tenants_do_not_share_answers(gateway: Gateway) -> None:
    def asked(key: str) -> str:
        return outcome(chat(gateway, "Reverse: tenant", {"authorization": f"Bearer {key}"}, **GREEDY))

    assert [asked("a"), asked("a"), asked("b"), asked("b")] == ["miss", "hit", "miss", "hit"]


def test_the_metrics_tell_the_outcomes(gateway: Gateway) -> None:
    def counts() -> list[float]:
        return [gateway.metric("cache_total", outcome=kind) for kind in ("miss", "hit", "bypass")]

    before = counts()
    for fields in (GREEDY, GREEDY, {}):
        chat(gateway, "Uppercase: metrics", **fields)
    assert [after - was for was, after in zip(before, counts(), strict=True)] == [1, 1, 1]


def started(server: Server) -> float:
    return server.metric("nv_inference_count", model="tensorrt_llm")


@pytest.mark.parametrize("stream", [True, False])
def test_the_same_at_once_is_computed_once(cached: Gateway, slow: Server, stream: bool) -> None:
    before = started(slow)
    fields = {**GREEDY, "max_tokens": 40, "stream": stream}
    answers: list[Answer] = []
    threads = [
        threading.Thread(target=lambda: answers.append(complete(cached, f"join {stream}", **fields))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(outcome, answers)) == ["joined"] * 7 + ["miss"]
    assert len({str(stripped(answer)) for answer in answers}) == 1
    assert started(slow) == before + 1


def test_who_leaves_does_not_end_it_for_those_who_joined(cached: Gateway, slow: Server) -> None:
    cancelled = slow.metric("trireme_requests_cancelled_total")
    computed = cached.metric("tokens_total", kind="answer")
    fields = {**GREEDY, "max_tokens": 60, "prompt": "left alone"}
    with open_stream(cached, fields) as first:
        read_until(first, b"data: ")
        second_connection = open_stream(cached, {**fields, "stream_options": {"include_usage": True}})
        with second_connection as second:
            assert b"x-trireme-cache: joined" in read_until(second, b"\r\n\r\n")
            first.close()
            assert b'"completion_tokens":60' in read_until(second, b"[DONE]")
    # Computed once, and counted once, though who asked first has gone.
    wait_for(lambda: cached.metric("tokens_total", kind="answer") == computed + 60, 5, "the tokens")
    assert slow.metric("trireme_requests_cancelled_total") == cancelled


def test_when_the_last_one_leaves_it_is_cancelled_and_not_kept(cached: Gateway, slow: Server) -> None:
    cancelled = slow.metric("trireme_requests_cancelled_total")
    fields = {**GREEDY, "max_tokens": 100, "prompt": "given up"}
    with open_stream(cached, fields) as first, open_stream(cached, fields) as second:
        read_until(first, b"data: ")
        read_until(second, b"data: ")
    wait_for(lambda: slow.metric("trireme_requests_cancelled_total") == cancelled + 1, 10, "the cancellation")
    again = complete(cached, "given up", **GREEDY, max_tokens=100)
    assert outcome(again) == "miss"
    assert again.json["usage"]["completion_tokens"] == 100


def test_answers_are_forgotten_in_time(slow: Server, tmp_path: Path) -> None:
    with started_gateway(tmp_path, *server_options(slow), config="[cache]\nttl_s = 0.5\n") as brief:
        assert outcome(complete(brief, "brief", **GREEDY, max_tokens=2)) == "miss"
        assert outcome(complete(brief, "brief", **GREEDY, max_tokens=2)) == "hit"
        wait_for(lambda: outcome(complete(brief, "brief", **GREEDY, max_tokens=2)) == "miss", 10, "the end of its time")


def test_without_a_cache_everything_is_computed(slow: Server, tmp_path: Path) -> None:
    with started_gateway(tmp_path, *server_options(slow), "--cache", "none") as plain:
        assert [outcome(complete(plain, "x", **GREEDY, max_tokens=2)) for _ in range(2)] == ["bypass"] * 2


def test_memory_is_bounded() -> None:
    async def run() -> None:
        store = MemoryStore(CacheSettings(max_bytes=65_536, max_entry_bytes=4096))
        for number in range(100):
            await store.put(str(number), bytes(1000))
        # What was used last stays.
        assert [await store.get(str(number)) is not None for number in (99, 40, 0)] == [True, True, False]
        await store.put("large", bytes(4097))
        assert await store.get("large") is None

    asyncio.run(run())


def test_several_gateways_share_answers_in_redis(slow: Server, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    # Patient: a gateway that has just started may be slow.
    config = f'[cache]\nkind = "redis"\nurl = "redis://127.0.0.1:{port}/0"\ntimeout_ms = 5000\n'
    fields = {**GREEDY, "max_tokens": 5, "stream": True}
    with redis(tmp_path, port), started_gateway(tmp_path / "a", *server_options(slow), config=config) as one:
        first = complete(one, "shared", **fields)
        assert outcome(first) == "miss"
        with started_gateway(tmp_path / "b", *server_options(slow), config=config) as other:
            second = complete(other, "shared", **fields)
            assert outcome(second) == "hit"
            assert stripped(first) == stripped(second)


def test_without_redis_requests_go_on(slow: Server, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    option = f"redis://127.0.0.1:{port}/0"
    fields = {**GREEDY, "max_tokens": 2}
    with started_gateway(tmp_path / "gateway", *server_options(slow), "--cache", option) as running:
        assert outcome(complete(running, "early", **fields)) == "miss"
        with redis(tmp_path, port) as process:
            wait_for(lambda: outcome(complete(running, "there", **fields)) == "hit", 20, "a hit")
            process.kill()
            process.wait()
            failed = running.metric("cache_errors_total")
            assert [outcome(complete(running, "there", **fields)) for _ in range(3)] == ["miss"] * 3
            assert running.metric("cache_errors_total") > failed
        with redis(tmp_path, port):
            wait_for(lambda: outcome(complete(running, "there", **fields)) == "hit", 20, "a hit again")


def test_a_redis_that_hangs_holds_nobody_up(slow: Server, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    config = f'[cache]\nkind = "redis"\nurl = "redis://127.0.0.1:{port}/0"\ntimeout_ms = 50\n'
    with redis(tmp_path, port) as process, started_gateway(tmp_path / "g", *server_options(slow), config=config) as one:
        assert outcome(complete(one, "hangs", **GREEDY, max_tokens=2)) == "miss"
        os.kill(process.pid, signal.SIGSTOP)
        try:
            answers = [complete(one, "hangs", **GREEDY, max_tokens=2) for _ in range(4)]
        finally:
            os.kill(process.pid, signal.SIGCONT)
        assert [outcome(answer) for answer in answers] == ["miss"] * 4
