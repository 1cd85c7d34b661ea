"""Quotas: what a key and a tenant may have, counted by one gateway or several."""

import asyncio
import math
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest

from account_runs import bearer, id_of, new_key, opened, sqlite_url, trireme
from gateway_runs import Answer, Gateway, call, complete, open_stream, read_until, server_options, started_gateway
from service_runs import redis
from support import Server, start_null_server, stop_server, wait_for
from trireme_client import TriremeError
from trireme_gateway.accounts.directory import Directory
from trireme_gateway.accounts.keys import Key, all_keys
from trireme_gateway.accounts.quota import NANO, Quota
from trireme_gateway.errors import QuotaExceeded
from trireme_gateway.metrics import Metrics
from trireme_gateway.quota.quotas import Quotas
from trireme_gateway.settings import Settings
from trireme_ops.ports import free_ports

SHORT = {"max_tokens": 1}


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose engine costs nothing."""
    running = start_null_server(tmp_path_factory.mktemp("quick"), 0.0)
    yield running
    stop_server(running)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return sqlite_url(tmp_path_factory.mktemp("quotas"))


@pytest.fixture(scope="module")
def counting(quick: Server, database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that counts by itself."""
    config = '[[price]]\nmodel = "ensemble"\ninput = 1000\noutput = 2000\n'
    folder = tmp_path_factory.mktemp("counting")
    with started_gateway(folder, *server_options(quick), config=config, database=database) as running:
        yield running


def known_key(gateway: Gateway, database: str, quota: Quota, tenant: str = "acme") -> str:
    """A key that the gateway knows."""
    key = new_key(database, tenant, quota)
    wait_for(lambda: call(gateway, "/v1/models", headers=bearer(key)).status == 200, 5, "the key")
    return key


def same_minute(seconds: float) -> None:
    """Wait until so many seconds are left of the minute that is counted."""
    wait_for(lambda: time.time() % 60 < 60 - seconds, 61, "a new minute")


def test_requests_a_minute(counting: Gateway, database: str) -> None:
    key = known_key(counting, database, Quota(requests_per_minute=3))
    same_minute(10)
    answers = [complete(counting, "x", bearer(key), **SHORT) for _ in range(5)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["2", "1", "0", "0", "0"]
    assert answers[0].headers["x-ratelimit-limit-requests"] == "3"
    assert float(answers[0].headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60
    refused = answers[3]
    assert refused.error["type"] == "rate_limit_error"
    assert refused.error["code"] == "rate_limit_exceeded"
    assert refused.error["message"].startswith(f"the key {id_of(key)} may have 3 requests a minute, and has 0 left")
    left_s = 60 - time.time() % 60
    assert left_s <= int(refused.headers["retry-after"]) <= left_s + 3
    # Others do not notice.
    assert complete(counting, "x", bearer(known_key(counting, database, Quota())), **SHORT).status == 200


def test_the_sdk_understands_a_quota(counting: Gateway, database: str) -> None:
    key = known_key(counting, database, Quota(requests_per_minute=1))
    same_minute(10)
    with openai.OpenAI(base_url=counting.url, api_key=key, max_retries=0) as client:
        client.completions.create(model="ensemble", prompt="x", max_tokens=1)
        with pytest.raises(openai.RateLimitError) as refused:
            client.completions.create(model="ensemble", prompt="x", max_tokens=1)
    assert refused.value.code == "rate_limit_exceeded"


def test_a_tenant_s_keys_have_one_quota_together(counting: Gateway, database: str) -> None:
    trireme(database, "keys", "limit", "--tenant", "shared", "--requests-per-minute", "4")
    keys = [known_key(counting, database, Quota(), "shared") for _ in range(2)]
    same_minute(10)
    statuses = [complete(counting, "x", bearer(keys[number % 2]), **SHORT).status for number in range(6)]
    assert statuses == [200, 200, 200, 200, 429, 429]
    message = complete(counting, "x", bearer(keys[0]), **SHORT).error["message"]
    assert message.startswith("the tenant shared may have 4 requests a minute")


def test_tokens_are_reserved_and_corrected(counting: Gateway, database: str) -> None:
    key = known_key(counting, database, Quota(tokens_per_minute=1000))
    same_minute(20)

    def left() -> int:
        answer = complete(counting, "abcd", bearer(key), max_tokens=1)
        assert answer.status == 200
        return int(answer.headers["x-ratelimit-remaining-tokens"])

    before = left()
    # It reserves 700, and ends after a few: the rest is there again.
    begins = complete(counting, "abcd", bearer(key), max_tokens=20).text[-3:]
    stopped = complete(counting, "abcd", bearer(key), max_tokens=700, stop=[begins])
    took = stopped.json["usage"]["total_tokens"]
    assert stopped.status == 200
    assert took < 100
    wait_for(lambda: left() > before - took - 150, 5, "the correction")
    # What could never be had is said at once, and that it does not help to come again.
    refused = complete(counting, "abcd", bearer(key), max_tokens=2000)
    assert refused.status == 429
    assert "may need 2001 tokens" in refused.error["message"]
    assert refused.headers["x-should-retry"] == "false"
    # What is too much now leaves the rest to smaller ones.
    too_much = complete(counting, "abcd", bearer(key), max_tokens=998)
    assert too_much.status == 429
    assert left() > 0


@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_what_is_refused_takes_nothing_from_others(quick: Server, tmp_path: Path, kind: str) -> None:
    (port,) = free_ports(1)
    database = sqlite_url(tmp_path)
    key = new_key(database, "acme", Quota(tokens_per_minute=1000))
    with ExitStack() as stack:
        if kind == "redis":
            stack.enter_context(redis(tmp_path, port))
        config = shared(port) if kind == "redis" else ""
        gateway = stack.enter_context(
            started_gateway(tmp_path / "g", *server_options(quick), config=config, database=database)
        )
        assert complete(gateway, "x", bearer(key), **SHORT).status == 200
        same_minute(20)

        def one(number: int) -> tuple[int, int]:
            tokens = 900 if number % 2 else 8
            return tokens, complete(gateway, "x", bearer(key), max_tokens=tokens, ignore_eos=True).status

        with ThreadPoolExecutor(16) as threads:
            found = list(threads.map(one, range(16)))
        # One of the large ones fits, and with it all small ones do.
        assert [status for tokens, status in found if tokens == 900].count(200) == 1
        small = [status for tokens, status in found if tokens == 8]
        assert small.count(200) >= 5


def test_a_client_that_leaves_has_used_what_was_computed(counting: Gateway, quick: Server, tmp_path: Path) -> None:
    slow = start_null_server(tmp_path / "slow", 100.0)
    database = sqlite_url(tmp_path)
    key = new_key(database, "acme", Quota(tokens_per_minute=100_000))
    try:
        with started_gateway(tmp_path / "g", *server_options(slow), database=database) as gateway:
            same_minute(15)
            fields = {"prompt": "x", "ignore_eos": True, "max_tokens": 1000}
            for stream in (True, False):
                before = _remaining(gateway, key)
                headers = [f"Authorization: Bearer {key}", f"x-request-id: left-{stream}"]
                with open_stream(gateway, {**fields, "stream": stream}, headers=headers) as one:
                    if stream:
                        read_until(one, b"data: ")
                    wait_for(lambda: slow.metric("trireme_requests_running") > 0, 5, "the generation")
                    began = time.monotonic()
                    wait_for(lambda began=began: time.monotonic() - began > 0.3, 5, "some tokens")  # type: ignore[misc]
                line = gateway.line_of(f"left-{stream}")
                assert 5 < line["tokens_out"] < 900
                used = line["tokens_in"] + line["tokens_out"]
                wait_for(
                    lambda before=before, used=used: before - _remaining(gateway, key) < used + 60,  # type: ignore[misc]
                    5,
                    "the correction",
                )
                assert before - _remaining(gateway, key) >= used
    finally:
        stop_server(slow)


def _remaining(gateway: Gateway, key: str) -> int:
    return int(complete(gateway, "x", bearer(key), **SHORT).headers["x-ratelimit-remaining-tokens"])


def test_answers_at_once(quick: Server, tmp_path: Path) -> None:
    slow = start_null_server(tmp_path / "slow", 50.0)
    database = sqlite_url(tmp_path)
    key, other = new_key(database, "acme", Quota(max_concurrent=2)), new_key(database, "other")
    fields = {"prompt": "x", "ignore_eos": True, "max_tokens": 2000}
    try:
        with started_gateway(tmp_path / "g", *server_options(slow), database=database) as gateway, ExitStack() as stack:
            for _ in range(2):
                one = stack.enter_context(open_stream(gateway, fields, headers=[f"Authorization: Bearer {key}"]))
                read_until(one, b"data: ")
            refused = complete(gateway, "x", bearer(key), **SHORT)
            assert refused.status == 429
            assert refused.error["code"] == "concurrency_exceeded"
            assert refused.error["message"] == f"the key {id_of(key)} may have 2 answers at once, and has them"
            assert refused.headers["retry-after"] == "1"
            assert complete(gateway, "x", bearer(other), **SHORT).status == 200
            stack.close()
            wait_for(lambda: complete(gateway, "x", bearer(key), **SHORT).status == 200, 10, "a place")
    finally:
        stop_server(slow)


def test_a_monthly_budget_survives_a_restart(quick: Server, tmp_path: Path) -> None:
    # 0.002 for each token of an answer, 0.001 for each of a prompt.
    config = '[[price]]\nmodel = "ensemble"\ninput = 1000\noutput = 2000\n'
    database = sqlite_url(tmp_path)
    key = new_key(database, "acme", Quota(monthly_budget_nano=NANO // 10))
    spent = 0.0
    for number in range(2):
        folder = tmp_path / str(number)
        with started_gateway(folder, *server_options(quick), config=config, database=database) as gateway:
            answers: list[Answer] = []
            # As fast as can be: what the ledger does not hold yet counts, too.
            while not answers or answers[-1].status == 200:
                answers.append(complete(gateway, "abcd", bearer(key), max_tokens=5, ignore_eos=True))
                assert len(answers) < 30
            for answer in answers[:-1]:
                usage = answer.json["usage"]
                spent += 0.001 * usage["prompt_tokens"] + 0.002 * usage["completion_tokens"]
            refused = answers[-1]
            assert refused.status == 429
            assert refused.error["type"] == refused.error["code"] == "insufficient_quota"
            assert f"may spend 0.1 USD a month, and has spent {spent:.6g}" in refused.error["message"]
            assert refused.headers["x-should-retry"] == "false"
            assert spent <= 0.1
            assert number == 0 or len(answers) == 1
    trireme(database, "keys", "limit", "--key", id_of(key), "--monthly-budget", "none")
    with started_gateway(tmp_path / "again", *server_options(quick), config=config, database=database) as gateway:
        assert complete(gateway, "x", bearer(key), **SHORT).status == 200


def _flood(gateways: list[Gateway], key: str, count: int) -> list[int]:
    """The statuses of so many requests, by turns, 16 at once."""

    def one(number: int) -> int:
        return complete(gateways[number % len(gateways)], "x", bearer(key), **SHORT).status

    with ThreadPoolExecutor(16) as threads:
        return list(threads.map(one, range(count)))


def shared(port: int, **more: Any) -> str:
    rest = "".join(f"{name} = {value!r}\n".replace("'", '"') for name, value in more.items())
    return f'[quota.shared]\nkind = "redis"\nurl = "redis://127.0.0.1:{port}/0"\n{rest}'


def test_two_gateways_let_not_one_more_through(quick: Server, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    database = sqlite_url(tmp_path)
    key = new_key(database, "acme", Quota(requests_per_minute=333, tokens_per_minute=10_000_000))
    with redis(tmp_path, port), ExitStack() as stack:
        gateways = [
            stack.enter_context(
                started_gateway(tmp_path / name, *server_options(quick), config=shared(port), database=database)
            )
            for name in ("a", "b")
        ]
        same_minute(30)
        began = math.floor(time.time() / 60)
        statuses = _flood(gateways, key, 1000)
        assert math.floor(time.time() / 60) == began, "it took longer than a minute"
        assert statuses.count(200) == 333
        assert statuses.count(429) == 667


def test_answers_at_once_are_counted_over_gateways_and_freed_when_one_dies(quick: Server, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    slow = start_null_server(tmp_path / "slow", 20.0)
    database = sqlite_url(tmp_path)
    key = new_key(database, "acme", Quota(max_concurrent=1))
    fields = {"prompt": "x", "ignore_eos": True, "max_tokens": 2000}
    try:
        with (
            redis(tmp_path, port),
            started_gateway(tmp_path / "a", *server_options(slow), config=shared(port), database=database) as one,
        ):
            other = started_gateway(tmp_path / "b", *server_options(slow), config=shared(port), database=database)
            with pytest.raises(AssertionError), other as dying:
                with open_stream(dying, fields, headers=[f"Authorization: Bearer {key}"]) as stream:
                    read_until(stream, b"data: ")
                    assert complete(one, "x", bearer(key), **SHORT).status == 429
                    os.kill(dying.process.pid, signal.SIGKILL)
                    dying.process.wait()
                # Its lease ends; and a gateway that was killed leaves its file of being ready.
                wait_for(lambda: complete(one, "x", bearer(key), **SHORT).status == 200, 25, "the place")
    finally:
        stop_server(slow)


def test_a_client_that_leaves_while_it_is_counted_leaves_nothing_behind(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    new_key(sqlite_url(tmp_path), "acme", Quota(requests_per_minute=5, tokens_per_minute=100, max_concurrent=1))
    settings = Settings.model_validate({"quota": {"shared": {"kind": "redis", "url": f"redis://127.0.0.1:{port}/0"}}})

    async def run() -> None:
        clock = Clock()
        with opened(sqlite_url(tmp_path)) as found:
            directory = Directory(found, clock)
            await directory.start()
            quotas = Quotas(settings, directory, Metrics(), clock)
            with found.read() as connection:
                (key,) = all_keys(connection)
            for number in range(30):
                leaving = asyncio.create_task(quotas.reserve(key, 10, 0))
                for _ in range(number):
                    await asyncio.sleep(0)
                if leaving.done():
                    quotas.settle(leaving.result(), 0, 0)
                    break
                leaving.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await leaving
                await quotas.settled()
            assert number > 2
            await quotas.settled()
            clock.now_s += 60
            quotas.settle(await quotas.reserve(key, 10, 0), 0, 0)
            await quotas.close()
            await directory.stop()

    with redis(tmp_path, port):
        asyncio.run(run())


@pytest.mark.parametrize("when_lost", ["open", "shut"])
def test_without_redis(quick: Server, tmp_path: Path, when_lost: str) -> None:
    (port,) = free_ports(1)
    database = sqlite_url(tmp_path)
    key = new_key(database, "acme", Quota(requests_per_minute=50))
    monitor = new_key(database, "ops", may_read_metrics=True)
    config = shared(port, when_lost=when_lost, timeout_ms=200)

    def errors(gateway: Gateway) -> float:
        text = call(gateway, "/metrics", headers=bearer(monitor)).body.decode()
        return float(text.partition("\ntrireme_gateway_quota_errors_total ")[2].split()[0])

    with started_gateway(tmp_path / "g", *server_options(quick), config=config, database=database) as gateway:
        with redis(tmp_path, port):
            assert complete(gateway, "x", bearer(key), **SHORT).status == 200
            assert errors(gateway) == 0
        answers = [complete(gateway, "x", bearer(key), **SHORT) for _ in range(4)]
        assert errors(gateway) > 0
        assert "Redis does not answer" in gateway.log
        if when_lost == "shut":
            assert {answer.status for answer in answers} == {503}
            assert "quotas cannot be checked now" in answers[0].error["message"]
            # Whom nothing limits is not concerned.
            assert complete(gateway, "x", bearer(monitor), **SHORT).status == 200
        else:
            # Each gateway counts by itself meanwhile.
            same_minute(10)
            assert {answer.status for answer in answers} == {200}
            assert _flood([gateway], key, 80).count(200) <= 50
        with redis(tmp_path, port) as process:
            wait_for(lambda: _is_counted(gateway, bearer(key)), 70, "quotas in Redis")
            # One that hangs holds nobody up for long.
            os.kill(process.pid, signal.SIGSTOP)
            try:
                began = time.monotonic()
                status = complete(gateway, "x", bearer(key), **SHORT).status
                assert time.monotonic() - began < 5
                assert status in ((503,) if when_lost == "shut" else (200, 429))
            finally:
                os.kill(process.pid, signal.SIGCONT)


def _is_counted(gateway: Gateway, headers: dict[str, str]) -> bool:
    return complete(gateway, "x", headers, **SHORT).status == 200


class Clock:
    """A wall clock that can be set."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_030.0

    def __call__(self) -> float:
        return self.now_s


#: What the clock does -> by how many seconds it is set, and whether a quota that was used up is open then.
JUMPS = {
    "forward a minute": (60.0, True),
    "forward a year": (3.2e7, True),
    "back within the minute": (-5.0, False),
    "back an hour": (-3600.0, True),
    "back ten years": (-3.2e8, True),
}


@pytest.mark.parametrize("jump", JUMPS)
def test_a_clock_that_jumps_locks_nobody_out(tmp_path: Path, jump: str) -> None:
    by_s, opens = JUMPS[jump]
    new_key(sqlite_url(tmp_path), "acme", Quota(requests_per_minute=2, tokens_per_minute=100, max_concurrent=9))

    async def taken(quotas: Quotas, key: Key, count: int) -> int:
        got = 0
        for _ in range(count):
            try:
                reservation = await quotas.reserve(key, 10, 0)
            except QuotaExceeded as error:
                assert 0 < (error.retry_after_ms or 0) <= 60_000
                continue
            quotas.settle(reservation, 10, 0)
            got += 1
        return got

    async def run() -> None:
        clock = Clock()
        with opened(sqlite_url(tmp_path)) as found:
            directory = Directory(found, clock)
            await directory.start()
            quotas = Quotas(Settings(), directory, Metrics(), clock)
            with found.read() as connection:
                (key,) = all_keys(connection)
            assert await taken(quotas, key, 4) == 2
            clock.now_s += by_s
            assert await taken(quotas, key, 4) == (2 if opens else 0)
            # And it goes on as ever.
            clock.now_s += 60
            assert await taken(quotas, key, 4) == 2
            await quotas.close()
            await directory.stop()

    asyncio.run(run())


@pytest.mark.parametrize(("by_s", "state"), [(0, 200), (3600, 401), (-3600, 200), (-3.2e8, 200), (3.2e8, 401)])
def test_a_key_s_end_follows_the_clock_and_its_revocation_does_not(tmp_path: Path, by_s: float, state: int) -> None:
    clock = Clock()
    url = sqlite_url(tmp_path)
    ending = new_key(url, "acme", expires_ms=int(1000 * (clock.now_s + 60)))
    revoked = new_key(url, "acme")
    trireme(url, "keys", "revoke", id_of(revoked))

    async def status(directory: Directory, key: str) -> int:
        try:
            await directory.key_of(key)
        except TriremeError:
            return 401
        return 200

    async def run() -> None:
        with opened(url) as found:
            directory = Directory(found, clock)
            await directory.start()
            assert await status(directory, ending) == 200
            clock.now_s += by_s
            assert await status(directory, ending) == state
            assert await status(directory, revoked) == 401
            await directory.stop()

    asyncio.run(run())
