"""A release on three servers behind a real HAProxy: a canary's share, a server that dies, and one that catches up."""

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from haproxy_runs import RunningHAProxy, proxied, started
from release_runs import TEXTS, Operator, clients, null_checkout, null_server
from support import Server, long_form, wait_for
from trireme_ops.layout import Layout

pytestmark = pytest.mark.alone

NAMES = ("a", "b", "c")


@dataclass
class RunningFleet:
    """Three servers, the balancer, and the operator of all of them."""

    servers: dict[str, Server]
    haproxy: RunningHAProxy
    operator: Operator
    layout: Layout
    stack: ExitStack
    folder: Path

    def live(self) -> dict[str, str]:
        """What is live, by server."""
        return {s["server"]: s["llms"][0]["live"] for s in self.operator.status() if not s["problem"]}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFleet]:
    layout = null_checkout(tmp_path_factory.mktemp("releases") / "root")
    folder = tmp_path_factory.mktemp("fleet")
    with ExitStack() as stack:
        servers = {}
        for name in NAMES:
            (folder / name).mkdir()
            servers[name] = stack.enter_context(null_server(folder / name, layout, name))[0]
        haproxy = stack.enter_context(started(folder, [proxied(name, servers[name]) for name in NAMES]))
        file = folder / "fleet.toml"
        tables = [f'[[server]]\nname = "{name}"\ncontrol = "{servers[name].addresses["health"]}"\n' for name in NAMES]
        file.write_text(f'[haproxy]\nsocket = "{haproxy.socket}"\n' + "".join(tables))
        operator = Operator(layout, ["--fleet", str(file)])
        yield RunningFleet(servers, haproxy, operator, layout, stack, folder)


def test_a_canary_gets_its_share_and_a_breach_takes_it_back(fleet: RunningFleet) -> None:
    with clients(fleet.haproxy.grpc, streaming=6, unary=6, max_tokens=4) as seen:
        promotion = fleet.operator.start("promote", "r2", "--canary", "10,50", "--hold", "6s")
        promotion.wait_for("watch", "begin")
        before = len(seen.texts), seen.answered_by("r2")
        promotion.wait_for("watch", "done")
        share = (seen.answered_by("r2") - before[1]) / (len(seen.texts) - before[0])
        promotion.end(signal.SIGINT)
    assert seen.errors == []
    assert seen.mixed == []
    # A few hundred requests were asked; ten in a hundred are meant.
    assert 0.02 < share < 0.25
    assert set(fleet.live().values()) == {"r1"}
    weights = fleet.haproxy.api.weights("grpc")
    assert {weight.current for weight in weights.values()} == {weight.initial for weight in weights.values()}


@long_form
def test_a_release_rolls_over_all_servers_and_no_client_notices(fleet: RunningFleet) -> None:
    with clients(fleet.haproxy.grpc, streaming=4, unary=4) as seen:
        done = fleet.operator.run("promote", "r2", "--canary", "25", "--hold", "2s", timeout_s=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert seen.errors == []
    assert seen.mixed == []
    assert seen.answered_by("r2") > 0
    assert set(fleet.live().values()) == {"r2"}
    assert set(fleet.live()) == set(NAMES)


def test_a_server_that_dies_is_skipped_and_caught_up_later(fleet: RunningFleet) -> None:
    if set(fleet.live().values()) != {"r1"}:
        assert fleet.operator.run("rollback", timeout_s=240).returncode == 0
    promotion = fleet.operator.start("promote", "r2", "--hold", "1s")
    promotion.wait_for("load", "done")
    victim = fleet.servers["c"]
    triton = victim.triton_pid()
    victim.process.kill()
    assert promotion.wait(240) == 1
    assert promotion.events[-1]["missing"] == ["c"]
    assert {name: live for name, live in fleet.live().items() if name != "c"} == {"a": "r2", "b": "r2"}
    wait_for(lambda: not Path(f"/proc/{triton}").exists(), 30, "the end of tritonserver")
    # It comes back at the address that the fleet file names.
    again = fleet.folder / "again"
    again.mkdir()
    ports = {
        kind: fleet.servers["c"].addresses[kind].rpartition(":")[2] for kind in ("http", "grpc", "metrics", "health")
    }
    back = fleet.stack.enter_context(null_server(again, fleet.layout, "c", ports=ports))[0]
    fleet.servers["c"] = back
    file = fleet.folder / "llm.toml"
    smoke = [{"prompt": "q", "expect": TEXTS["r2"].pattern, "match": "regex", "max_tokens": 4}]
    (fleet.folder / "smoke.jsonl").write_text("\n".join(map(json.dumps, smoke)))
    file.write_text(
        'name = "r2"\n[versions]\npreprocessing = 2\ntensorrt_llm = 2\npostprocessing = 2\n'
        '[promote]\nhold_s = 0\n[smoke]\nfile = "smoke.jsonl"\n'
    )
    done = fleet.operator.run("apply", str(file), timeout_s=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(fleet.live().values()) == {"r2"}
    assert set(fleet.live()) == set(NAMES)
