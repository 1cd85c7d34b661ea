"""Shares of the traffic, given to servers through the weights of the HAProxy in front of them."""

from collections.abc import Sequence

from .fleet import Fleet, HAProxyTable
from .haproxy import real_percent, share_weights


class Balancer:
    """The HAProxy of a fleet; servers go by the fleet's names. Raises HAProxyError where it cannot be told."""

    def __init__(self, fleet: Fleet, table: HAProxyTable) -> None:
        self._haproxy = table.client()
        self._backends = table.backends
        self._names = {server.name: server.haproxy_name for server in fleet.servers}

    @classmethod
    def of(cls, fleet: Fleet) -> "Balancer | None":
        """That of a fleet, if it has one."""
        return cls(fleet, fleet.haproxy) if fleet.haproxy is not None else None

    def give(self, new: Sequence[str], old: Sequence[str], percent: float) -> float:
        """Give `percent` of the traffic to the new servers together; what they get really."""
        weights = share_weights(new, old, percent)
        for backend in self._backends:
            for name, weight in weights.items():
                self._haproxy.set_weight(backend, self._names[name], weight)
        return real_percent(weights, list(new))

    def restore(self, names: Sequence[str]) -> None:
        """Give these servers the weights back that the configuration says."""
        for backend in self._backends:
            weights = self._haproxy.weights(backend)
            for name in names:
                own = self._names[name]
                if own in weights:
                    self._haproxy.set_weight(backend, own, weights[own].initial)
