"""HAProxy's runtime API, on a real HAProxy whose servers need not be there."""

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from haproxy_runs import haproxy_binary, started
from support import wait_for
from trireme_ops.fleet.haproxy_config import ProxiedServer
from trireme_ops.ports import free_ports
from trireme_ops.releases.haproxy import HAProxy, HAProxyError, ServerState, real_percent, share_weights


@pytest.fixture(scope="module")
def haproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HAProxy]:
    folder = tmp_path_factory.mktemp("haproxy")
    http, grpc, health = free_ports(3)
    with started(folder, [ProxiedServer(name, "127.0.0.1", http, grpc, health) for name in "abc"]) as running:
        yield running.api


def test_version(haproxy: HAProxy) -> None:
    assert haproxy.version()[0].isdecimal()


def test_the_socket_is_its_owners_alone(haproxy: HAProxy) -> None:
    assert Path(haproxy.address).stat().st_mode & 0o777 == 0o600


def test_a_weight_that_is_set_is_read_back(haproxy: HAProxy) -> None:
    haproxy.set_weight("grpc", "b", 256)
    weights = haproxy.weights("grpc")
    assert list(weights) == ["a", "b", "c"]
    assert (weights["b"].current, weights["b"].initial) == (256, 100)
    assert haproxy.weights("http")["b"].current == 100


def test_servers_that_do_not_answer_their_checks_count_for_nothing(haproxy: HAProxy) -> None:
    wait_for(lambda: not any(weight.is_up for weight in haproxy.weights("grpc").values()))
    assert [weight.effective for weight in haproxy.weights("grpc").values()] == [0, 0, 0]


@pytest.mark.parametrize("state", [ServerState.DRAIN, ServerState.MAINT, ServerState.READY])
def test_states(haproxy: HAProxy, state: ServerState) -> None:
    haproxy.set_state("http", "c", state)
    assert haproxy.state("http", "c") is state
    assert haproxy.state("http", "a") is ServerState.READY


def test_stats_of_servers_that_were_asked_nothing(haproxy: HAProxy) -> None:
    stats = haproxy.stats("grpc")
    assert list(stats) == ["a", "b", "c"]
    assert {(s.requests, s.running, s.errors_5xx, s.response_time_ms) for s in stats.values()} == {(0, 0, 0, 0)}


def test_an_unknown_backend_is_named(haproxy: HAProxy) -> None:
    for call in (
        lambda: haproxy.weights("nowhere"),
        lambda: haproxy.stats("nowhere"),
        lambda: haproxy.set_weight("nowhere", "a", 1),
        lambda: haproxy.set_state("nowhere", "a", ServerState.DRAIN),
    ):
        with pytest.raises(HAProxyError, match="no backend 'nowhere'"):
            call()


def test_an_unknown_server_is_named_with_those_that_there_are(haproxy: HAProxy) -> None:
    with pytest.raises(HAProxyError, match="backend grpc has no server 'z'; it has a, b, c"):
        haproxy.set_weight("grpc", "z", 1)
    with pytest.raises(HAProxyError, match="backend grpc has no server 'z'; it has a, b, c"):
        haproxy.state("grpc", "z")


@pytest.mark.parametrize("weight", [-1, 257])
def test_a_weight_out_of_range_is_refused(haproxy: HAProxy, weight: int) -> None:
    with pytest.raises(HAProxyError, match=rf"weight of grpc/a is {weight}; allowed are 0 to 256"):
        haproxy.set_weight("grpc", "a", weight)


def test_a_name_cannot_smuggle_a_command_in(haproxy: HAProxy) -> None:
    with pytest.raises(HAProxyError, match="is no name of a server"):
        haproxy.set_weight("grpc", "a weight 1; shutdown sessions server grpc/b", 1)


def test_no_socket(tmp_path: Path) -> None:
    with pytest.raises(HAProxyError, match=r"there is no socket .*/gone.sock; is HAProxy running"):
        HAProxy(str(tmp_path / "gone.sock")).version()


def test_a_socket_that_nobody_listens_on(tmp_path: Path) -> None:
    path = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with pytest.raises(HAProxyError, match="cannot be asked: Connection refused"):
        HAProxy(str(path)).version()


def test_an_address_that_is_none() -> None:
    with pytest.raises(HAProxyError, match="'admin' is neither a path nor HOST:PORT"):
        HAProxy("admin").version()


def test_an_answer_that_does_not_come() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(HAProxyError, match=r"no answer to `show info` within 0.2 s"):
            HAProxy(address, timeout_s=0.2).version()


def test_an_answer_that_is_no_haproxys() -> None:
    def answer(listener: socket.socket) -> None:
        for _ in range(3):
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        other = HAProxy(f"127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(HAProxyError, match="names no version"):
            other.version()
        with pytest.raises(HAProxyError, match="answer to `show servers state grpc` is not understood"):
            other.weights("grpc")
        with pytest.raises(HAProxyError, match="answer to `show stat -1 6 -1` is not understood"):
            other.stats("grpc")
        thread.join()


def test_over_tcp_and_where_weights_do_nothing(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        f"global\n    stats socket ipv4@127.0.0.1:{port} level admin\n"
        f"    stats socket {tmp_path}/user.sock level user\n"
        "defaults\n    mode http\n    timeout connect 1s\n    timeout client 1s\n    timeout server 1s\n"
        "backend grpc\n    balance first\n    server a 127.0.0.1:1 weight 7\n"
    )
    process = subprocess.Popen([haproxy_binary(), "-db", "-q", "-f", str(config)])
    try:
        wait_for((tmp_path / "user.sock").exists)
        overtcp = HAProxy(f"127.0.0.1:{port}")
        assert overtcp.weights("grpc")["a"].current == 7
        with pytest.raises(HAProxyError, match="`balance first`, which does not follow weights"):
            overtcp.set_weight("grpc", "a", 3)
        with pytest.raises(HAProxyError, match="needs `level admin`"):
            HAProxy(str(tmp_path / "user.sock")).set_state("grpc", "a", ServerState.DRAIN)
    finally:
        process.terminate()
        process.wait(timeout=10)


def test_two_equal_servers_share_exactly() -> None:
    weights = share_weights(["new"], ["old"], 10)
    assert weights["old"] == 9 * weights["new"]
    assert real_percent(weights, ["new"]) == 10


@pytest.mark.parametrize("percent", [5, 12.5, 25, 50, 75, 99])
@pytest.mark.parametrize("counts", [(1, 1), (1, 2), (2, 1), (3, 5)])
def test_the_share_is_near_what_is_asked(percent: float, counts: tuple[int, int]) -> None:
    new, old = [f"new{n}" for n in range(counts[0])], [f"old{n}" for n in range(counts[1])]
    weights = share_weights(new, old, percent)
    assert real_percent(weights, new) == pytest.approx(percent, abs=0.2)
    assert all(1 <= weight <= 256 for weight in weights.values())


def test_nothing_and_everything() -> None:
    assert share_weights(["n"], ["o"], 0) == {"n": 0, "o": 100}
    assert share_weights(["n"], ["o"], 100) == {"n": 100, "o": 0}
    assert share_weights(["n"], [], 5) == {"n": 100}
    assert share_weights([], ["o"], 5) == {"o": 100}


def test_the_smallest_share_is_more_than_nothing() -> None:
    weights = share_weights(["n"], ["o"], 0.01)
    assert weights == {"n": 1, "o": 256}
    assert real_percent(weights, ["n"]) == pytest.approx(0.389, abs=0.001)


@pytest.mark.parametrize(
    ("new", "old", "percent", "wording"),
    [
        (["a"], ["b"], 101, "percent is 101"),
        (["a"], ["b"], -1, "percent is -1"),
        (["a"], ["b", "a"], 5, "'a' is both new and old"),
        ([], [], 5, "there are no servers"),
    ],
)
def test_shares_that_cannot_be(new: list[str], old: list[str], percent: float, wording: str) -> None:
    with pytest.raises(ValueError, match=wording):
        share_weights(new, old, percent)


def test_a_missing_haproxy_fails_in_continuous_integration_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    monkeypatch.setitem(os.environ, "CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install haproxy"):
        haproxy_binary()
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="apt-get install haproxy"):
        haproxy_binary()
