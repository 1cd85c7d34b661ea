"""Fleets that grow, shrink and start again, and the releases that their servers serve then."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from fleet_runs import ANY, RunningFleet, run_fleet, started_fleet
from release_runs import Operator, null_checkout
from support import wait_for
from trireme_ops import ports
from trireme_ops.fleet.fleet import next_servers
from trireme_ops.layout import Layout
from trireme_ops.releases.control import Address, Control

#: Servers and HAProxy alone.
BARE = ("--gateways", "0", "--no-prometheus")


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    # A short path: it has sockets in it.
    return null_checkout(tmp_path_factory.mktemp("c") / "root")


@pytest.fixture(scope="module")
def fleet(layout: Layout) -> Iterator[RunningFleet]:
    """Two servers with r1 at first."""
    with started_fleet(layout, *BARE, "--replicas", "2", "--release", "r1") as running:
        yield running


def live(fleet: RunningFleet) -> dict[str, str]:
    servers = json.loads(fleet.run("status", "--json").stdout)["servers"]
    return {one["name"]: one["releases"]["ensemble"] for one in servers}


def start_again(fleet: RunningFleet, replicas: int) -> str:
    """What `up` prints; no --release, as one forgets it."""
    fleet.run("down")
    return fleet.run("up", *ANY, *BARE, "--replicas", str(replicas)).stdout


def lock_of(fleet: RunningFleet, name: str) -> dict[str, Any] | None:
    """Who is at work on a server."""
    found: dict[str, Any] | None = Control(
        Address.parse(fleet.plan.server(name).health, name), fleet.layout.control_key()
    ).status()["lock"]
    return found


def test_servers_and_releases_do_not_change_at_the_same_time(fleet: RunningFleet) -> None:
    act = fleet.operator.start("promote", "r2", "--hold", "3s")
    act.wait_for("load", "begin")
    for words in (("scale", "3"), ("scale", "1"), ("restart", "server-1")):
        done = fleet.run(*words, check=False)
        assert done.returncode == 1
        assert "has been at work on server-1 since" in done.stderr and "promote r2" in done.stderr
    assert act.wait() == 0, act.events[-3:]
    assert live(fleet) == {"server-1": "r2", "server-2": "r2"}
    with fleet.start("scale", "3") as scaling:
        wait_for(lambda: lock_of(fleet, "server-2"), 30, "the lock")
        done = fleet.operator.run("promote", "r1", "--hold", "0s")
        assert scaling.wait(timeout=120) == 0
    assert done.returncode == 1
    assert "trireme fleet scale 3" in done.stderr
    assert live(fleet) == dict.fromkeys(("server-1", "server-2", "server-3"), "r2")
    fleet.run("restart", "server-2")
    assert [lock_of(fleet, f"server-{number}") for number in (1, 2, 3)] == [None] * 3
    # The one that was added goes back as the others do.
    done = fleet.operator.run("rollback")
    assert done.returncode == 0, done.stdout + done.stderr
    assert live(fleet) == dict.fromkeys(("server-1", "server-2", "server-3"), "r1")


def test_a_fleet_that_is_started_again_serves_one_release(fleet: RunningFleet) -> None:
    fleet.run("scale", "1")
    (before,) = live(fleet).values()
    other = "r2" if before == "r1" else "r1"
    assert f"server-2: to serve {before}, which is live on the others." in start_again(fleet, 2)
    assert live(fleet) == {"server-1": before, "server-2": before}
    assert "different releases" not in fleet.run("status").stdout
    server_1 = Operator(fleet.layout, ["--server", fleet.plan.server("server-1").health])
    done = server_1.run("promote", other, "--hold", "0s")
    assert done.returncode == 0, done.stdout + done.stderr
    says = f"Servers serve different releases. server-1: {other}; server-2: {before}."
    assert says in fleet.run("status").stdout
    # It takes back what went live last, where it is.
    done = fleet.operator.run("rollback")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"[server-2] rollback: {before} is live already" in done.stdout
    assert live(fleet) == {"server-1": before, "server-2": before}
    # Where somebody was killed before it had proved itself, that is all that is taken back.
    act = fleet.operator.start("promote", other, "--hold", "30s")
    act.wait_for("switch", "done")
    assert set(live(fleet).values()) == {before, other}
    act.end()
    done = fleet.operator.run("rollback")
    assert done.returncode == 0, done.stdout + done.stderr
    assert live(fleet) == {"server-1": before, "server-2": before}
    # What server-2 had when it was last one of them is of no use later.
    assert server_1.run("promote", other, "--hold", "0s").returncode == 0
    start_again(fleet, 1)
    assert f"server-2: to serve {other}" in start_again(fleet, 2)
    assert live(fleet) == {"server-1": other, "server-2": other}


def test_servers_that_are_added_listen_in_the_row_of_the_others() -> None:
    first = next_servers((), 2, iter(()), 8100)
    assert [server.port("http") for server in first] == [8100, 8110]
    added = next_servers(first, 2, iter(range(40000, 40004)), 8100, lambda port: port != 8122)
    assert [server.name for server in added] == ["server-3", "server-4"]
    # One of server-3's four is taken by somebody else.
    assert [server.port("http") for server in added] == [40000, 8130]
    # Nor is there a port above 65535.
    added = next_servers(first, 1, iter(range(40000, 40004)), 65520, ports.is_free)
    assert [server.port("http") for server in added] == [40000]


def test_a_fleet_whose_folder_cannot_be_used_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("f")
    (root / "model_repository").mkdir()
    (root / "ensembles").mkdir()
    folder = root / ".trireme" / "fleet"
    folder.parent.mkdir()
    folder.write_text("")
    done = run_fleet(Layout(root), "up", *ANY, check=False)
    assert done.returncode == 1
    assert f"{folder} cannot be used: File exists" in done.stderr
