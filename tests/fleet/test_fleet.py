"""`trireme fleet` under Locust's load: what dies, hangs, drains, grows and is swapped, and what clients see of it."""

import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet_runs import ANY, RunningFleet, failed, run_fleet, started_fleet
from release_runs import clients, null_checkout
from support import long_form, metric_of, wait_for
from trireme_client import Client
from trireme_ops.bench.locust_run import LocustRun
from trireme_ops.processes import is_alive

#: Of each server: 4 at once, at 100 tokens/s. What one server's clients wait for when it is gone is not refused.
SETTINGS = {"max_num_sequences": "4", "max_queue_delay_ms": "60000"}
SERVERS = ("server-1", "server-2", "server-3")

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFleet]:
    layout = null_checkout(tmp_path_factory.mktemp("fleet") / "root", SETTINGS)
    with started_fleet(layout, "--release", "r1", "--drain-timeout", "20") as running:
        yield running


@pytest.fixture(autouse=True)
def whole(fleet: RunningFleet) -> None:
    for server in [name for name, state in fleet.states().items() if state == "draining"]:
        # By a test that failed.
        fleet.run("resume", server)
    fleet.wait_until_all_serve()


@pytest.fixture
def loads(fleet: RunningFleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[LocustRun]]:
    """Streams and unary calls over gRPC for 10 s, under way on every server."""
    folder = tmp_path_factory.mktemp("locust")
    host = fleet.plan.edge.grpc
    with (
        LocustRun(host, "streaming-chat", 6, 10, folder / "streaming", "synthetic:16/300") as streaming,
        LocustRun(host, "unary", 6, 10, folder / "unary", "synthetic:16/20") as unary,
    ):
        wait_for(lambda: all(fleet.running(name) >= 2 for name in SERVERS), 60, "load on every server")
        # Streams that brought nothing yet would be asked of another server.
        before = {name: generated(fleet, name) for name in SERVERS}
        wait_for(lambda: all(generated(fleet, name) > before[name] + 200 for name in SERVERS), 30, "tokens of each")
        yield [streaming, unary]


def generated(fleet: RunningFleet, server: str) -> float:
    """The tokens of a server's engine so far."""
    url = f"http://{fleet.plan.server(server).metrics}/metrics"
    return metric_of(url, "trireme_generated_tokens_total")


@pytest.mark.parametrize("victim", ["tritonserver", pytest.param("its supervisor", marks=long_form)])
def test_a_killed_server_costs_no_unary_request(fleet: RunningFleet, loads: list[LocustRun], victim: str) -> None:
    pid = fleet.triton("server-2") if victim == "tritonserver" else fleet.process("server-2")
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    wait_for(lambda: fleet.status_of("server-2") != "UP", 5, "HAProxy's notice")
    wait_for(lambda: fleet.status_of("server-2") == "UP", 60, "the server's return")
    back_s = time.monotonic() - killed
    streaming, unary = (load.records() for load in loads)
    assert failed(unary) == []
    cut = [record for record in streaming if record.is_failed]
    # At most those that were under way on it; each knows soon.
    assert 1 <= len(cut) <= 4
    for record in cut:
        assert record.last_token_s is not None, record
        assert record.end_s - record.last_token_s < 2, record
    # Its share of a busy machine is another matter: `make bench-fleet` says how long it is.
    assert back_s < 45


def test_a_server_that_hangs_is_taken_out_and_comes_back(fleet: RunningFleet, loads: list[LocustRun]) -> None:
    halted = fleet.everything_of("server-3")
    for pid in halted:
        os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        wait_for(lambda: fleet.status_of("server-3").startswith("DOWN"), 10, "the hung server's end")
        assert time.monotonic() - began < 5
        # What hung on it was cut, and the rest is answered.
        wait_for(lambda: fleet.running("server-3") == 0, 2, "the end of what was under way there")
        with clients(fleet.plan.edge.grpc, streaming=2, unary=2, max_tokens=10) as seen:
            wait_for(lambda: len(seen.texts) > 10, 30, "answers")
        assert seen.errors == []
    finally:
        for pid in halted:
            if is_alive(pid):
                os.kill(pid, signal.SIGCONT)
    wait_for(lambda: fleet.status_of("server-3") == "UP", 60, "the server's return")
    for load in loads:
        assert len(failed(load.records())) <= 4


def test_draining_loses_nothing(fleet: RunningFleet, loads: list[LocustRun]) -> None:
    fleet.run("drain", "server-1")
    assert fleet.states() == {"server-1": "draining", "server-2": "ready", "server-3": "ready"}
    assert fleet.running("server-1") == 0
    before = fleet.haproxy.stats("grpc")["server-1"].requests
    for load in loads:
        assert failed(load.records()) == []
    assert fleet.haproxy.stats("grpc")["server-1"].requests == before
    # The gateway heard of it, too.
    assert ask_gateway(fleet, 6) == {"server-2", "server-3"}
    fleet.run("resume", "server-1")
    assert fleet.status_of("server-1") == "UP"
    wait_for(lambda: "server-1" in ask_gateway(fleet, 6), 20, "the gateway's return to it")


def ask_gateway(fleet: RunningFleet, count: int) -> set[str]:
    """Which servers answered."""
    found = set()
    for number in range(count):
        body = {"model": "ensemble", "prompt": f"question {number} {time.monotonic()}", "max_tokens": 4}
        request = urllib.request.Request(
            f"http://{fleet.plan.edge.openai}/v1/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            found.add(answer.headers["x-trireme-server"])
            assert json.load(answer)["usage"]["completion_tokens"] == 4
    return found


def test_servers_are_restarted_one_after_the_other_and_no_client_notices(
    fleet: RunningFleet, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = {name: fleet.process(name) for name in SERVERS}
    with clients(fleet.plan.edge.grpc, streaming=4, unary=4, max_tokens=20) as seen:
        fleet.run("restart")
    assert seen.errors == []
    assert seen.texts
    assert all(fleet.process(name) != before[name] for name in SERVERS)


def test_a_release_rolls_over_the_fleet_without_loss(fleet: RunningFleet, tmp_path: Path) -> None:
    host = fleet.plan.edge.grpc
    with (
        LocustRun(host, "streaming-chat", 3, 300, tmp_path / "streaming", "synthetic:16/100") as streaming,
        LocustRun(host, "unary", 3, 300, tmp_path / "unary", "synthetic:16/20") as unary,
        # These know what each release says.
        clients(host, streaming=2, unary=2, max_tokens=20) as seen,
    ):
        wait_for(lambda: all(fleet.running(name) >= 2 for name in SERVERS), 60, "load on every server")
        done = fleet.operator.run("promote", "r2", "--canary", "25", "--hold", "2s", timeout_s=240)
        assert done.returncode == 0, done.stdout + done.stderr
        wait_for(lambda: seen.answered_by("r2") > 20, 30, "answers of the release")
        for load in (streaming, unary):
            load.stop()
            assert len(load.records()) > 20
            assert failed(load.records()) == []
    assert seen.errors == []
    assert seen.mixed == []
    # A server that is added serves what is live, not what the fleet was started with.
    fleet.run("scale", "4")
    try:
        status = json.loads(fleet.run("status", "--json").stdout)["servers"]
        assert {one["name"]: one["releases"]["ensemble"] for one in status} == dict.fromkeys(
            [*SERVERS, "server-4"], "r2"
        )
        fleet.wait_until_all_serve()
        with clients(fleet.plan.edge.grpc, streaming=4, unary=4, max_tokens=20) as seen:
            wait_for(lambda: fleet.running("server-4") > 0, 20, "load on the new server")
            fleet.run("scale", "3")
        assert seen.errors == []
    finally:
        fleet.run("scale", "3")
    assert [server.name for server in fleet.plan.servers] == list(SERVERS)
    wait_for(lambda: ask_gateway(fleet, 6) == set(SERVERS), 30, "the gateway's forgetting it")


def test_a_session_stays_with_its_server_and_moves_when_that_drains(fleet: RunningFleet) -> None:
    def asked(session: str, count: int) -> dict[str, int]:
        before = {name: fleet.haproxy.stats("grpc_session")[name].requests for name in SERVERS}
        with Client(fleet.plan.edge.grpc, timeout_s=30) as client:
            for _ in range(count):
                client.generate(prompt="again", max_tokens=2, session=session)
        after = fleet.haproxy.stats("grpc_session")
        return {name: after[name].requests - before[name] for name in SERVERS if after[name].requests != before[name]}

    places = {session: asked(session, 6) for session in ("ann", "bob", "cid", "dan", "eve", "fay")}
    assert all(list(place.values()) == [6] for place in places.values()), places
    # Six names on three servers: not all in one place.
    assert len({name for place in places.values() for name in place}) > 1
    (home,) = places["ann"]
    fleet.run("drain", home)
    try:
        assert home not in asked("ann", 3)
    finally:
        fleet.run("resume", home)
    assert list(asked("ann", 3)) == [home]


def test_three_servers_carry_three_times_the_load(
    fleet: RunningFleet, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("scale")

    def tokens_per_s(name: str) -> float:
        with LocustRun(fleet.plan.edge.grpc, "unary", 36, 8, folder / name, "synthetic:16/20") as load:
            assert failed(load.records()) == []
        return float(load.summary()["tokens_per_s"]["total"])

    whole = tokens_per_s("three")
    for server in SERVERS[1:]:
        fleet.run("drain", server)
    try:
        alone = tokens_per_s("one")
    finally:
        for server in SERVERS[1:]:
            fleet.run("resume", server)
    # 2.85 is what `make bench-fleet` measures where nothing else runs.
    assert whole / alone > 2.5


def test_a_lost_gateway_redis_and_prometheus_come_back(fleet: RunningFleet) -> None:
    for name in ("gateway-1", "redis", "prometheus", "haproxy"):
        pid = fleet.process(name)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda one=name, old=pid: fleet.process(one) not in (0, old), 30, f"{name}'s return")
    fleet.wait_until_all_serve()
    wait_for(lambda: _asks(fleet), 30, "answers")


def _asks(fleet: RunningFleet) -> bool:
    try:
        return bool(ask_gateway(fleet, 1))
    except OSError:
        return False


def test_prometheus_sees_every_part(fleet: RunningFleet) -> None:
    def up() -> dict[str, str]:
        with urllib.request.urlopen(f"http://{fleet.plan.prometheus}/api/v1/query?query=up", timeout=10) as answer:
            found = json.load(answer)["data"]["result"]
        return {f"{one['metric']['job']}/{one['metric']['instance']}": one["value"][1] for one in found}

    wanted = {f"{job}/{name}" for job in ("triton", "supervisor") for name in SERVERS}
    wanted |= {"gateway/gateway-1", "haproxy/haproxy", "prometheus/prometheus"}
    wait_for(lambda: {name for name, value in up().items() if value == "1"} >= wanted, 30, "every target")


def test_the_sockets_are_the_owners_alone(fleet: RunningFleet) -> None:
    for path in (fleet.plan.edge.socket, fleet.plan.supervisor_socket):
        assert Path(path).stat().st_mode & 0o777 == 0o600
    assert fleet.plan.folder.stat().st_mode & 0o777 == 0o700


def test_a_second_fleet_and_an_unknown_server_are_refused(fleet: RunningFleet) -> None:
    done = fleet.run("up", check=False)
    assert done.returncode == 1 and "the fleet runs already" in done.stderr
    done = fleet.run("drain", "server-9", check=False)
    assert done.returncode == 1 and "no server 'server-9'; it has server-1, server-2, server-3" in done.stderr


def test_the_fleet_stops_when_its_keeper_is_killed(tmp_path_factory: pytest.TempPathFactory) -> None:
    layout = null_checkout(tmp_path_factory.mktemp("keeper") / "root")
    with started_fleet(layout, "--replicas", "1", "--gateways", "0", "--no-prometheus", "--release", "r1") as small:
        processes = [small.process(name) for name in ("server-1", "haproxy")]
        triton = small.triton("server-1")
        # What HAProxy is told of states is of this fleet, and not of the next one, which has other ports.
        small.run("reload")
        small.kill_keeper()
        wait_for(lambda: not any(is_alive(pid) for pid in (*processes, triton)), 40, "the end of all")
        done = run_fleet(layout, "status", check=False)
        assert done.returncode == 1 and "It was started with: trireme fleet up" in done.stderr
        # It starts again from what is there.
        again = ["up", *ANY, "--replicas", "1", "--gateways", "0", "--no-prometheus"]
        run_fleet(layout, *again)
        # At once, too, where the server without a keeper still answers what it has.
        with clients(small.plan.edge.grpc, streaming=1, unary=0, max_tokens=300):
            wait_for(lambda: small.running("server-1"), 20, "a stream")
            old = small.kill_keeper()
        run_fleet(layout, *again)
        wait_for(lambda: not is_alive(old), 10, "the end of the one before")
        old = small.kill_keeper()
        done = run_fleet(layout, "down")
        assert "The fleet had ended without" in done.stdout
        wait_for(lambda: not is_alive(old), 10, "its end")
        assert "there is no fleet here" in run_fleet(layout, "status", check=False).stderr
        run_fleet(layout, *again)
