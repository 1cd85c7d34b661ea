"""Operators and servers that are killed while a release is on its way: it is said, and one release serves."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from release_runs import Operator, clients, null_checkout, null_server
from support import Server, long_form, wait_for
from trireme_client import Client
from trireme_ops.layout import Layout

#: Where a promotion can be killed, by the step that has begun; the release that is live after that.
STEPS = {"preflight": "r1", "load": "r1", "probe": "r1", "compare": "r1", "watch": "r1", "drain": "r2"}
LONG = bool(os.environ.get("TRIREME_LONG"))


def steps(*short: str) -> list[str]:
    """All of them in the long form of the suite."""
    return list(STEPS) if LONG else list(short)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return null_checkout(tmp_path_factory.mktemp("releases") / "root")


@pytest.fixture(scope="module")
def running(layout: Layout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Operator]]:
    with null_server(tmp_path_factory.mktemp("server"), layout) as started:
        yield started


def kill_operator_at(operator: Operator, step: str, address: str) -> None:
    """Promote r2, and kill the operator with -9 once a step has begun."""
    hold = "1s" if step == "drain" else "60s"
    with Client(address) as client, client.stream(prompt="anything", max_tokens=1900) as stream:
        # Of r1: as long as it runs, r1 is not freed.
        next(iter(stream))
        promotion = operator.start("promote", "r2", "--hold", hold)
        promotion.wait_for("baseline" if step == "preflight" and hold == "60s" else step, "begin")
        promotion.end(signal.SIGKILL)


@pytest.mark.parametrize("step", steps("watch"))
def test_an_operator_that_is_killed_leaves_one_release(running: tuple[Server, Operator], step: str) -> None:
    server, operator = running
    if operator.live() != "r1":
        assert operator.run("promote", "r1", "--hold", "0s").returncode == 0
    with clients(server.grpc, streaming=2, unary=2) as seen:
        kill_operator_at(operator, step, server.grpc)
        found = operator.run("status")
        live = operator.live()
    assert live == STEPS[step]
    if step != "preflight":
        assert "found r2 on its way" in found.stderr
    (status,) = operator.status()
    assert status["llms"][0]["loaded"] == [live]
    assert status["drift"] == []
    assert seen.errors == []
    assert seen.mixed == []


@long_form
def test_the_next_promotion_settles_what_it_finds(running: tuple[Server, Operator]) -> None:
    server, operator = running
    if operator.live() != "r1":
        assert operator.run("promote", "r1", "--hold", "0s").returncode == 0
    kill_operator_at(operator, "watch", server.grpc)
    done = operator.run("promote", "r2", "--hold", "0s")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "found r2 on its way" in done.stdout
    assert operator.live() == "r2"
    assert operator.run("rollback").returncode == 0
    assert operator.live() == "r1"


@pytest.mark.parametrize("step", steps("load"))
def test_a_tritonserver_that_is_killed_comes_back_with_one_release(running: tuple[Server, Operator], step: str) -> None:
    server, operator = running
    if operator.live() != "r1":
        assert operator.run("promote", "r1", "--hold", "0s").returncode == 0
    promotion = operator.start("promote", "r2", "--hold", "1s" if step == "drain" else "30s")
    promotion.wait_for("baseline" if step == "preflight" else step, "begin")
    os.kill(server.triton_pid(), signal.SIGKILL)
    promotion.wait()
    wait_for(lambda: operator.status()[0]["serving"], 60, "the server")
    check_one_release(server, operator)


@long_form
@pytest.mark.parametrize("step", steps("watch"))
def test_a_server_that_is_killed_serves_one_release_when_it_is_started_again(
    layout: Layout, tmp_path: Path, step: str
) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "again").mkdir()
    name = f"killed-{step}"
    with null_server(tmp_path / "first", layout, name) as (server, operator):
        promotion = operator.start("promote", "r2", "--hold", "1s" if step == "drain" else "30s")
        promotion.wait_for("baseline" if step == "preflight" else step, "begin")
        triton = server.triton_pid()
        server.process.kill()
        assert promotion.wait() == 1, promotion.events
        wait_for(lambda: not Path(f"/proc/{triton}").exists(), 30, "the end of tritonserver")
    with null_server(tmp_path / "again", layout, name) as (server, operator):
        assert "found r2 on its way" in operator.run("status").stderr or step == "preflight"
        check_one_release(server, operator)


def check_one_release(server: Server, operator: Operator) -> None:
    """One release is live, alone, and whole."""
    live = operator.live()
    assert live in ("r1", "r2")
    (status,) = operator.status()
    assert status["llms"][0]["loaded"] == [live]
    assert status["drift"] == []

    def answers() -> bool:
        with clients(server.grpc, streaming=2, unary=2, max_tokens=10) as seen:
            wait_for(lambda: len(seen.texts) > 8 or seen.errors, 30, "answers")
        assert seen.mixed == []
        assert seen.answered_by(live) == len(seen.texts)
        return not seen.errors

    wait_for(answers, 30, "answers without errors")
