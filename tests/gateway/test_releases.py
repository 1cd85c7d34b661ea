"""Releases behind a gateway: which one answered, a share for one on trial, copies, and answers that are kept apart."""

import asyncio
import signal
import threading
from collections import Counter
from collections.abc import Iterator
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
from release_runs import TEXTS, Operator, null_checkout, null_server
from support import Server, wait_for
from trireme_gateway.fleet.link import Link
from trireme_gateway.fleet.server import Server as FleetServer
from trireme_gateway.fleet.watch import Watch
from trireme_gateway.settings import HealthSettings, ServerAddress
from trireme_ops.releases.control import Address, Control
from trireme_ops.releases.release import read_release

GREEDY = {"temperature": 0, "max_tokens": 5}


LONG = {"prompt": "long", "ignore_eos": True, "max_tokens": 1200, "stream_options": {"include_usage": True}}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Operator]]:
    """A server with r1 live, and its operator."""
    folder = tmp_path_factory.mktemp("releases")
    layout = null_checkout(folder)
    with null_server(folder, layout) as pair:
        yield pair


def release_of(answer: Answer) -> str:
    """By its header; its text must be that release's."""
    assert answer.status == 200, answer.body
    release = answer.headers["x-trireme-release"]
    assert TEXTS[release].fullmatch(answer.text), (release, answer.text)
    return release


def promote(operator: Operator, release: str) -> None:
    done = operator.run("promote", release, "--hold", "1s", "--max-ttft-ratio", "100")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def on_trial(served: tuple[Server, Operator]) -> Iterator[Server]:
    """r2 is loaded beside r1, which is live."""
    server, operator = served
    control = Control(Address.parse(str(server.addresses["health"])), operator.layout.control_key())
    control.lock("a trial")
    try:
        control.load(read_release(operator.layout, "r2"))
        yield server
        assert control.free("ensemble", "r2", 30)
        control.end("ended", "the trial is over")
    finally:
        control.unlock()


def test_a_canary_gets_its_share(on_trial: Server, tmp_path: Path) -> None:
    config = server_tables({"a": on_trial})
    share = '[[canary]]\nrelease = "r2"\npercent = 40\n'
    with started_gateway(tmp_path, config=config + share) as gateway:
        found = Counter(release_of(complete(gateway, f"{number}", max_tokens=1)) for number in range(120))
        assert 25 < found["r2"] < 75
        assert found["r1"] == 120 - found["r2"]
        # A session stays where it is.
        for session in map(str, range(8)):
            header = {"x-trireme-session": session}
            assert len({release_of(complete(gateway, "x", header, max_tokens=1)) for _ in range(4)}) == 1
        # The cache keeps them apart: each release answers for itself.
        kinds = Counter(
            (release_of(one), one.headers["x-trireme-cache"])
            for one in (complete(gateway, "same", **GREEDY) for _ in range(40))
        )
        assert kinds["r1", "miss"] == kinds["r2", "miss"] == 1
        assert kinds["r1", "hit"] + kinds["r2", "hit"] == 38
        # Taken back by the operator of the gateway.
        assert gateway.config is not None
        gateway.config.write_text(config)
        gateway.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "the settings were read again" in gateway.log, 20, "the settings")
        assert {release_of(complete(gateway, f"{number}", max_tokens=1)) for number in range(20)} == {"r1"}


def test_a_canary_that_no_server_has_gets_nothing(on_trial: Server, tmp_path: Path) -> None:
    config = server_tables({"a": on_trial}) + '[[canary]]\nrelease = "r9"\npercent = 100\n'
    with started_gateway(tmp_path, config=config) as gateway:
        assert release_of(complete(gateway, "x", max_tokens=1)) == "r1"


def shadowed(gateway: Gateway, outcome: str) -> float:
    return gateway.metric("shadow_requests_total", release="r2", outcome=outcome)


def test_copies_of_requests_are_compared_and_thrown_away(on_trial: Server, tmp_path: Path) -> None:
    config = server_tables({"a": on_trial}) + '[[shadow]]\nrelease = "r2"\npercent = 100\n'
    with started_gateway(tmp_path, config=config) as gateway:
        for number in range(6):
            assert release_of(complete(gateway, f"{number}", max_tokens=3, temperature=0)) == "r1"
        # The two releases answer in letters of their own.
        wait_for(lambda: shadowed(gateway, "different") == 6, 20, "the comparisons")
        assert release_of(complete(gateway, "x", max_tokens=3)) == "r1"
        wait_for(lambda: shadowed(gateway, "not_compared") == 1, 20, "the copy")
        assert shadowed(gateway, "failed") == 0
        assert gateway.metric("shadow_time_to_first_token_seconds_count", release="r2") == 7


def test_a_swap_loses_nothing_and_every_answer_says_its_release(
    served: tuple[Server, Operator], tmp_path: Path
) -> None:
    server, operator = served
    with started_gateway(tmp_path, *server_options(server)) as gateway:
        wait_for(lambda: call(gateway, "/health/ready").status == 200, 60, "the server")
        ending = threading.Event()
        wrong: list[object] = []
        seen: Counter[str] = Counter()

        def ask(number: int) -> None:
            turn = 0
            while not ending.is_set():
                turn += 1
                fields = {"max_tokens": 6, "stream": bool(number % 2), **({"temperature": 0} if number < 4 else {})}
                try:
                    seen[release_of(complete(gateway, f"{number} {turn % 9}", **fields))] += 1
                except AssertionError as error:
                    wrong.append(error)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        try:
            wait_for(lambda: seen["r1"] > 20, 30, "answers of r1")
            with open_stream(gateway, LONG) as stream:
                assert b"x-trireme-release: r1" in read_until(stream, b"data: ")
                promote(operator, "r2")
                # What began on r1 ends on it.
                assert b'"completion_tokens":1200' in read_until(stream, b"[DONE]")
            wait_for(lambda: release_of(complete(gateway, "0 0", **GREEDY)) == "r2", 5, "r2 for new requests")
            # From now on nothing of r1, be it from the cache.
            seen.clear()
            wait_for(lambda: seen["r2"] > 50, 30, "answers of r2")
            assert seen["r1"] <= 8
        finally:
            ending.set()
            for thread in threads:
                thread.join()
        assert not wrong, wrong[:3]
        # Asked of r1 before, and kept: r2 answers for itself.
        assert {
            release_of(complete(gateway, f"{number} {turn}", max_tokens=6, temperature=0))
            for number in range(4)
            for turn in range(9)
        } == {"r2"}


def test_a_release_that_goes_live_in_the_middle_of_a_look_takes_no_server_away(
    served: tuple[Server, Operator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was live is freed between the question what is live and the questions about it."""
    server, operator = served
    (status,) = operator.status()
    live = status["llms"][0]["live"]
    other = "r2" if live == "r1" else "r1"
    ask_config = Link._config
    swapped = False

    async def swap_first(link: Link, model: str, timeout_s: float) -> object:
        nonlocal swapped
        if model.endswith(f"@{live}") and not swapped:
            swapped = True
            await asyncio.to_thread(promote, operator, other)
        return await ask_config(link, model, timeout_s)

    async def look() -> list[tuple[bool, list[str]]]:
        address = ServerAddress(name="a", grpc=server.grpc, health=str(server.addresses["health"]))
        seen = FleetServer(address, HealthSettings(), 0)
        states = []

        def note() -> None:
            states.append((seen.ready, [serving.live.release.name for serving in seen.serving.values()]))

        watch = Watch(seen, lambda: (("ensemble", ()),), HealthSettings(), note)
        seen.link.connect()
        watch.start()
        await watch.looked(20)
        monkeypatch.setattr(Link, "_config", swap_first)
        await watch.looked(120)
        await watch.stop()
        await seen.link.close()
        return states

    assert asyncio.run(look()) == [(True, [live]), (True, [other])]
    assert swapped
