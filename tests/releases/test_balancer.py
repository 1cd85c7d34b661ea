"""Shares of a fleet's servers, on a real HAProxy whose servers need not be there."""

from collections.abc import Iterator

import pytest

from haproxy_runs import started
from trireme_ops.fleet.haproxy_config import ProxiedServer
from trireme_ops.ports import free_ports
from trireme_ops.releases.balancer import Balancer
from trireme_ops.releases.fleet import Fleet
from trireme_ops.releases.haproxy import HAProxy, HAProxyError

BACKENDS = ("grpc", "http")


@pytest.fixture(scope="module")
def haproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HAProxy]:
    http, grpc, health = free_ports(3)
    servers = [ProxiedServer(name, "127.0.0.1", http, grpc, health) for name in ("s1", "s2", "s3")]
    with started(tmp_path_factory.mktemp("haproxy"), servers) as running:
        yield running.api


def balancer_of(haproxy: HAProxy, **servers: str) -> Balancer:
    """Of servers by their names in the fleet, each with its name in HAProxy."""
    tables = [
        {"name": name, "control": f"127.0.0.1:{8000 + number}", "haproxy": own}
        for number, (name, own) in enumerate(servers.items())
    ]
    balancer = Balancer.of(Fleet.model_validate({"server": tables, "haproxy": {"socket": haproxy.address}}))
    assert balancer is not None
    return balancer


def weights(haproxy: HAProxy, backend: str) -> dict[str, int]:
    return {name: weight.current for name, weight in haproxy.weights(backend).items()}


def test_a_share_is_given_in_every_backend_and_taken_back(haproxy: HAProxy) -> None:
    balancer = balancer_of(haproxy, a="s1", b="s2", c="s3")
    assert balancer.give(["b"], ["a", "c"], 20) == pytest.approx(20)
    for backend in BACKENDS:
        found = weights(haproxy, backend)
        assert found["s1"] == found["s3"] == 2 * found["s2"] > 0
    balancer.restore(["a", "b", "c"])
    assert [weights(haproxy, backend) for backend in BACKENDS] == [{"s1": 100, "s2": 100, "s3": 100}] * 2


def test_servers_that_the_fleet_does_not_know_are_named_before_anything_is_changed(haproxy: HAProxy) -> None:
    balancer = balancer_of(haproxy, a="s1", b="s2")
    with pytest.raises(HAProxyError, match="backend grpc has servers that the fleet file does not name: s3"):
        balancer.give(["a"], ["b"], 50)
    assert weights(haproxy, "grpc") == {"s1": 100, "s2": 100, "s3": 100}


def test_a_server_that_haproxy_does_not_know_is_named(haproxy: HAProxy) -> None:
    balancer = balancer_of(haproxy, a="s1", b="s2", c="s3", d="s4")
    with pytest.raises(HAProxyError, match="has no server 's4'"):
        balancer.give(["d"], ["a", "b", "c"], 10)


def test_a_fleet_without_haproxy_has_no_balancer() -> None:
    assert Balancer.of(Fleet.of_one("127.0.0.1:8003")) is None
