"""Servers on hosts of their own: network namespaces with an address each, one of them cut off and brought back."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from fleet_runs import failed
from haproxy_runs import haproxy_binary
from support import ROOT, TRIREME, wait_for
from trireme_load.record import Record, read_csv
from trireme_ops.bench.root import NullModel, copy_repositories, use_null_engine
from trireme_ops.fleet.haproxy_config import ProxiedServer, render_haproxy
from trireme_ops.layout import Layout
from trireme_ops.releases.haproxy import HAProxy

HOSTS = {"a": "10.77.0.11", "b": "10.77.0.12", "c": "10.77.0.13"}
EDGE = "10.77.0.1"


def ip(*words: str, check: bool = True) -> None:
    program = shutil.which("ip", path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin")
    assert program, "ip is missing. Type: sudo apt-get install iproute2"
    subprocess.run([program, *words], check=check, capture_output=True, text=True, timeout=20)


@dataclass(frozen=True)
class Lan:
    """A network of namespaces: the edge with a switch, and hosts on it."""

    name: str

    def inside(self, host: str, *command: str) -> list[str]:
        """A command line that runs in a host's namespace."""
        return ["ip", "netns", "exec", f"{self.name}-{host}", *command]

    def plug(self, host: str, state: str) -> None:
        """Pull a host's cable out of the switch (down), or put it in again (up)."""
        ip("netns", "exec", f"{self.name}-edge", "ip", "link", "set", f"to-{host}", state)


@contextmanager
def lan() -> Iterator[Lan]:
    """The namespaces `edge`, a, b and c; gone with the context, with all that is in them."""
    made = Lan(f"trireme-{os.getpid()}")
    with ExitStack() as stack:
        for host in ("edge", *HOSTS):
            ip("netns", "add", f"{made.name}-{host}")
            stack.callback(ip, "netns", "delete", f"{made.name}-{host}", check=False)
            ip("-n", f"{made.name}-{host}", "link", "set", "lo", "up")
        edge = f"{made.name}-edge"
        ip("-n", edge, "link", "add", "switch", "type", "bridge")
        ip("-n", edge, "address", "add", f"{EDGE}/24", "dev", "switch")
        ip("-n", edge, "link", "set", "switch", "up")
        for host, address in HOSTS.items():
            own = f"{made.name}-{host}"
            ip("-n", edge, "link", "add", f"to-{host}", "type", "veth", "peer", "name", "eth0", "netns", own)
            ip("-n", edge, "link", "set", f"to-{host}", "master", "switch", "up")
            ip("-n", own, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", own, "link", "set", "eth0", "up")
        yield made


@pytest.fixture(scope="module")
def network() -> Iterator[Lan]:
    # Being root in a container may not be enough.
    probe = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    if os.geteuid() != 0 or probe.returncode:
        pytest.skip(f"network namespaces cannot be made here: {probe.stderr.strip() or 'only root can'}")
    with lan() as made:
        yield made


@contextmanager
def background(command: list[str], log: Path, env: dict[str, str] | None = None) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that is ended, in order, with the context."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **(env or {})})
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def balancer(network: Lan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HAProxy]:
    """HAProxy at the edge, and a server with a null engine on each host."""
    folder = tmp_path_factory.mktemp("hosts")
    layout = copy_repositories(Layout(ROOT), folder / "root", {"max_queue_delay_ms": "60000"})
    use_null_engine(
        layout, NullModel.of_tokenizer(ROOT / "model_repository" / "postprocessing" / "1" / "tokenizer", 100)
    )
    with ExitStack() as stack:
        for host, address in HOSTS.items():
            ready = folder / f"{host}.ready"
            words = ["serve", "--address", address, "--name", host, "--ready-file", str(ready)]
            words += ["--log", str(folder / f"{host}-triton.log")]
            env = {"TRIREME_ROOT": str(layout.root)}
            process = background(network.inside(host, str(TRIREME), *words), folder / f"{host}.log", env)
            stack.enter_context(process)
        for host in HOSTS:
            wait_for((folder / f"{host}.ready").exists, 120, f"the server on {host}")
        socket, config = folder / "admin.sock", folder / "haproxy.cfg"
        servers = [ProxiedServer(host, address) for host, address in HOSTS.items()]
        config.write_text(render_haproxy(servers, str(socket), bind=EDGE))
        haproxy = network.inside("edge", haproxy_binary(), "-db", "-f", str(config))
        stack.enter_context(background(haproxy, folder / "haproxy.log"))
        wait_for(socket.exists, 10, "HAProxy's socket")
        api = HAProxy(str(socket))
        wait_for(lambda: all(weight.is_up for weight in api.weights("grpc").values()), 20, "the servers")
        yield api


def locust(scenario: str, prompts: str, out: Path) -> list[str]:
    """Three users for 16 s, at the edge."""
    words = [str(TRIREME), "load", "--host", f"{EDGE}:9001", "--scenario", scenario, "--users", "3", "--seed", "7"]
    return [*words, "--warm-up", "1s", "--duration", "16s", "--prompts", prompts, "--out", str(out)]


def test_a_host_that_is_cut_off_costs_what_it_had_and_comes_back(
    network: Lan, balancer: HAProxy, tmp_path: Path
) -> None:
    def running(host: str) -> int:
        return balancer.stats("grpc")[host].running

    with ExitStack() as stack:
        loads = []
        for name, scenario, prompts in (("s", "streaming-chat", "synthetic:16/100"), ("u", "unary", "synthetic:16/20")):
            command = network.inside("edge", *locust(scenario, prompts, tmp_path / name))
            loads.append(stack.enter_context(background(command, tmp_path / f"{name}.log")))
        wait_for(lambda: all(running(host) for host in HOSTS), 60, "load on every host")
        network.plug("b", "down")
        cut = time.monotonic()
        under_way = running("b")
        wait_for(lambda: balancer.stats("grpc")["b"].status.startswith("DOWN"), 15, "HAProxy's notice")
        assert time.monotonic() - cut < 6
        wait_for(lambda: running("b") == 0, 2, "the end of what it had")
        network.plug("b", "up")
        asked = balancer.stats("grpc")["b"].requests
        wait_for(lambda: balancer.stats("grpc")["b"].status == "UP", 20, "its return")
        wait_for(lambda: balancer.stats("grpc")["b"].requests > asked, 20, "requests for it")
        for load in loads:
            assert load.wait(timeout=90) in (0, 1)
    records: list[Record] = [record for name in ("s", "u") for record in read_csv(tmp_path / name / "requests.csv")]
    # Those that were on it when its cable came out, and some that were sent there until HAProxy knew.
    assert len(failed(records)) <= under_way + 3, failed(records)
    assert sum(record.is_ok for record in records) > 20
