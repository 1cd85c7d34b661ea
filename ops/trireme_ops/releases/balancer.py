"""Shares of the traffic, given to servers through the weights of the HAProxy in front of them."""

from collections.abc import Sequence

from .fleet import Fleet, HAProxyTable
from .haproxy import HAProxyError, real_percent, share_weights


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
        """Give `percent` of the traffic to the new servers together, and the rest to the old ones; what it is really.

        Nothing is changed where a backend has servers that the fleet does not name: they would take a part of both.
        """
        for backend in self._backends:
            strangers = sorted(set(self._haproxy.weights(backend)) - set(self._names.values()))
            if strangers:
                raise HAProxyError(
                    f"{self._haproxy.address}: the backend {backend} has servers that the fleet file does not name: "
                    f"{', '.join(strangers)}"
                )
        weights = share_weights(new, old, percent)
        for backend in self._backends:
            # The highest first: at no time does nobody weigh anything.
            for name, weight in sorted(weights.items(), key=lambda item: -item[1]):
                self._haproxy.set_weight(backend, self._names[name], weight)
        return real_percent(weights, new)

    def restore(self, names: Sequence[str]) -> None:
        """Give these servers the weights back that the configuration says."""
        for backend in self._backends:
            weights = self._haproxy.weights(backend)
            for name in names:
                own = self._names[name]
                if own in weights:
                    self._haproxy.set_weight(backend, own, weights[own].initial)
