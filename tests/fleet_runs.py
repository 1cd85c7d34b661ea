"""A fleet as operators start it, and Locust in front of it."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from haproxy_runs import haproxy_binary
from release_runs import Operator
from service_runs import program
from support import TRIREME, wait_for
from trireme_load.record import Record
from trireme_ops.fleet.fleet import Fleet
from trireme_ops.fleet.plan import FleetPlan
from trireme_ops.layout import Layout
from trireme_ops.processes import session_members
from trireme_ops.releases.haproxy import HAProxy, HAProxyError

ANY = [
    word
    for name in ("http", "grpc", "openai", "haproxy-metrics", "prometheus", "redis", "first")
    for word in (f"--{name}-port" if name != "first" else "--first-port", "0")
]


@dataclass(frozen=True)
class RunningFleet:
    """A fleet that was started with `trireme fleet up`."""

    layout: Layout

    @property
    def plan(self) -> FleetPlan:
        """As it is now."""
        return self._fleet().plan

    def _fleet(self) -> Fleet:
        return Fleet.find(self.layout, lambda _line: None)

    def run(self, *words: str, timeout_s: float = 240, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """`trireme fleet ...`, to its end."""
        return run_fleet(self.layout, *words, timeout_s=timeout_s, check=check)

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        """The same, in the background."""
        environment = {**os.environ, "TRIREME_ROOT": str(self.layout.root)}
        return subprocess.Popen([str(TRIREME), "fleet", *words], env=environment, stdout=subprocess.DEVNULL)

    @property
    def haproxy(self) -> HAProxy:
        """HAProxy's admin socket."""
        return HAProxy(self.plan.edge.socket)

    @property
    def operator(self) -> Operator:
        """Of its releases."""
        return Operator(self.layout, ["--fleet", str(self.plan.fleet_file)])

    def process(self, name: str) -> int:
        """The process id of one of its parts."""
        return self._fleet().processes.one(name).pid

    def triton(self, server: str) -> int:
        """The process id of a server's tritonserver."""
        return int(json.loads(self.plan.ready_file(server).read_text())["triton_pid"])

    def kill_keeper(self) -> int:
        """Kill supervisord; the process id of server-1's supervisor, which comes to its end by itself."""
        supervisor = self.process("server-1")
        os.kill(int((self.plan.folder / "supervisord.pid").read_text()), signal.SIGKILL)
        return supervisor

    def everything_of(self, server: str) -> list[int]:
        """All processes of a server: its supervisor's and tritonserver's."""
        return [self.process(server), *session_members(self.triton(server))]

    def status_of(self, server: str) -> str:
        """HAProxy's word for a server, in the backend of gRPC; empty where it says nothing."""
        try:
            return self.haproxy.stats("grpc")[server].status
        except HAProxyError:
            return ""

    def running(self, server: str) -> int:
        """What HAProxy has under way on it over gRPC."""
        return self.haproxy.stats("grpc")[server].running

    def states(self) -> dict[str, str]:
        """Of every server, as `trireme fleet status` has them."""
        done = self.run("status", "--json", check=False)
        return {one["name"]: one["state"] for one in json.loads(done.stdout)["servers"]}

    def wait_until_all_serve(self, timeout_s: float = 60) -> None:
        """All servers take requests, and HAProxy sends them some."""
        names = [server.name for server in self.plan.servers]
        up = lambda: all(self.status_of(name) == "UP" for name in names)  # noqa: E731
        wait_for(up, timeout_s, "all servers")


def run_fleet(
    layout: Layout, *words: str, timeout_s: float = 240, check: bool = True
) -> "subprocess.CompletedProcess[str]":
    """`trireme fleet ...` of a checkout, to its end."""
    environment = {**os.environ, "TRIREME_ROOT": str(layout.root)}
    done = subprocess.run(
        [str(TRIREME), "fleet", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@contextmanager
def started_fleet(layout: Layout, *options: str) -> Iterator[RunningFleet]:
    """A fleet on free ports; stopped with the context."""
    haproxy_binary()
    for name, package in (("redis-server", "redis-server"), ("prometheus", "prometheus")):
        program(name, package)
    run_fleet(layout, "up", *ANY, *options)
    fleet = RunningFleet(layout)
    try:
        yield fleet
    finally:
        fleet.run("down")
        logs = fleet_logs(layout)
        assert not any("Traceback" in text for text in logs.values()), logs


def fleet_logs(layout: Layout) -> dict[str, str]:
    """The log of each part."""
    folder = layout.state / "fleet" / "logs"
    return {path.name: path.read_text(encoding="utf-8", errors="replace") for path in folder.glob("*.log")}


def failed(records: Sequence[Record]) -> list[str]:
    """What clients were told that got no answer."""
    return [f"{record.code}: {record.error}" for record in records if record.is_failed]
