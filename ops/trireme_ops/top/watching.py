"""Watches servers, a gateway and HAProxy, and puts what they say together as frames."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from typing import Any

from ..errors import OperatorError
from ..releases.haproxy import HAProxy
from ..releases.watch import Sample
from .figures import gateway_figures, gpus_of, served_of
from .frame import Frame, GatewayFrame, History, Proxied, ServerFrame, State
from .rates import summed
from .scrape import TRITON as TRITON_PREFIXES
from .scrape import NoAnswer, metrics, releases
from .sources import TIMEOUT_S, CounterSource, Source
from .targets import ServerTarget, Targets

#: Those backends of HAProxy's that hold the servers; what is not there is left out.
BACKENDS = ("grpc", "http")

#: How often to ask what is live: a supervisor looks at its files to answer.
_RELEASES_S = 5.0


def ask_haproxy(address: str) -> dict[str, list[Proxied]]:
    """What HAProxy says of each server, by its name there. Raises NoAnswer."""
    haproxy = HAProxy(address, TIMEOUT_S)
    found: dict[str, list[Proxied]] = {}
    problem = ""
    for backend in BACKENDS:
        try:
            weights, stats = haproxy.weights(backend), haproxy.stats(backend)
        except OperatorError as error:
            problem = str(error)
            if "has no backend" not in problem:
                break
            continue
        for name, one in stats.items():
            weight = weights[name].current if name in weights else 0
            found.setdefault(name, []).append(Proxied(backend, one.status, weight, one.running, one.queued))
    if not found:
        raise NoAnswer(problem)
    return found


@dataclass
class _Watched:
    """The sources of one server."""

    target: ServerTarget
    metrics: CounterSource
    health: "Source[Sample] | None"
    releases: "Source[dict[str, Any]] | None"

    @property
    def sources(self) -> "list[Source[Any]]":
        return [source for source in (self.metrics, self.health, self.releases) if source is not None]

    def frame(self, proxied: list[Proxied]) -> ServerFrame:
        """How it is now."""
        counted, target = self.metrics.seen, self.target
        health = self.health.seen if self.health is not None else None
        answering = [one for one in (counted, health) if one is not None and one.answers]
        asked = counted.asked and (health is None or health.asked)
        silent_s = min(one.silent_s for one in (counted, health) if one is not None)
        restarts = None
        is_ready: bool | None = None
        if health is not None and health.answers and health.value is not None:
            restarts = summed(health.value.values, "trireme_server_restarts_total")
            is_ready = summed(health.value.values, "trireme_server_ready") == 1
        served = served_of(self.metrics.window, counted.value.values) if counted.answers and counted.value else []
        if not answering:
            state = State.DOWN if asked else State.STARTING
        elif is_ready is False or (health is None and not all(one.is_up for one in served)):
            state = State.NOT_READY
        elif not counted.answers or (health is not None and not health.answers):
            state = State.HALF if asked else State.STARTING
        else:
            state = State.UP if health is None else State.READY
        problems = [f"metrics: {counted.problem}" if counted.problem else ""]
        problems.append(f"health: {health.problem}" if health is not None and health.problem else "")
        return ServerFrame(
            name=target.name,
            metrics=str(target.metrics),
            health=str(target.health or ""),
            state=state,
            silent_s=silent_s,
            problem=", ".join(filter(None, problems)),
            restarts=restarts,
            live=self._live(),
            served=served,
            gpus=gpus_of(counted.value.values) if counted.answers and counted.value else [],
            proxied=proxied,
        )

    def _live(self) -> dict[str, str] | None:
        if self.releases is None:
            return None
        seen = self.releases.seen
        # The answer of a supervisor that is silent for a moment is still the best there is.
        if seen.value is None or seen.locked:
            return None
        return {llm: live or "" for llm, live in seen.value.items()}


@dataclass
class Watching:
    """Asks everything once an interval. Use as a context.

    gateway_key: "" where none is needed. ttft_slo_s: what counts as good, None where goodput is not wanted.
    """

    targets: Targets
    interval_s: float = 1.0
    window_s: float = 10.0
    gateway_key: str = ""
    ttft_slo_s: float | None = None
    history: History = field(default_factory=History)

    def __post_init__(self) -> None:
        self._servers = [self._watched(target) for target in self.targets.servers]
        self._gateway: CounterSource | None = None
        if self.targets.gateway is not None:
            headers = {"Authorization": f"Bearer {self.gateway_key}"} if self.gateway_key else {}
            ask = partial(metrics, self.targets.gateway, ("trireme_gateway_",), TIMEOUT_S, headers)
            self._gateway = CounterSource(ask, self.interval_s, self.window_s, together=())
        self._haproxy: Source[dict[str, list[Proxied]]] | None = None
        if self.targets.haproxy:
            self._haproxy = Source(partial(ask_haproxy, self.targets.haproxy), self.interval_s)

    def _watched(self, target: ServerTarget) -> _Watched:
        counted = CounterSource(
            partial(metrics, target.metrics, TRITON_PREFIXES, TIMEOUT_S), self.interval_s, self.window_s
        )
        if target.health is None:
            return _Watched(target, counted, None, None)
        health = Source(partial(metrics, target.health, ("trireme_server_",), TIMEOUT_S), self.interval_s)
        live = None
        if target.key:
            live = Source(partial(releases, target.health, target.key, TIMEOUT_S), max(_RELEASES_S, self.interval_s))
        return _Watched(target, counted, health, live)

    def __enter__(self) -> "Watching":
        for source in self._sources:
            source.start()
        return self

    def __exit__(self, *_error: object) -> None:
        for source in self._sources:
            source.stop()

    @property
    def _sources(self) -> "list[Source[Any]]":
        more: list[Source[Any] | None] = [self._gateway, self._haproxy]
        return [source for one in self._servers for source in one.sources] + [one for one in more if one is not None]

    def wait_for_first_rates(self, sleep: Callable[[float], None] = time.sleep) -> None:
        """Until each endpoint was asked twice, or once where it is asked seldom; however it answered."""
        deadline = time.monotonic() + self.interval_s + 2 * TIMEOUT_S + 1
        seldom = [one.releases for one in self._servers]
        while time.monotonic() < deadline:
            if all(source.seen.asked >= (1 if source in seldom else 2) for source in self._sources):
                return
            sleep(0.02)

    def tick(self) -> Frame:
        """How everything is now, after one more interval: the history gets a sample."""
        self.history.add([one.metrics.last for one in self._servers])
        return self.frame()

    def frame(self) -> Frame:
        """How everything is now."""
        notes = []
        proxied: dict[str, list[Proxied]] = {}
        if self._haproxy is not None:
            seen = self._haproxy.seen
            proxied = seen.value if seen.answers and seen.value else {}
            notes += [f"HAProxy: {seen.problem}"] if seen.problem else []
        servers = [one.frame(proxied.get(one.target.name, [])) for one in self._servers]
        for server in servers:
            notes += [f"{server.name}: {server.problem}"] if server.problem else []
            several = {one.llm for one in server.served if server.is_live(one) is None}
            if several:
                notes.append(f"{server.name}: which release is live is told to those with its control key only")
        gateway = self._gateway_frame()
        if gateway is not None and gateway.problem:
            notes.append(f"gateway {gateway.address}: {gateway.problem}")
        return Frame(
            name=self.targets.name,
            at=datetime.now(timezone.utc),
            interval_s=self.interval_s,
            window_s=self.window_s,
            servers=servers,
            gateway=gateway,
            has_haproxy=self._haproxy is not None,
            notes=notes,
            ttft_slo_s=self.ttft_slo_s,
        )

    def _gateway_frame(self) -> GatewayFrame | None:
        if self._gateway is None:
            return None
        seen, address = self._gateway.seen, str(self.targets.gateway)
        if seen.answers and seen.value is not None:
            return GatewayFrame(address, gateway_figures(self._gateway.window, seen.value.values))
        if seen.locked:
            return GatewayFrame(address, None, "it wants a key: --key-file FILE")
        if not seen.asked or (self.targets.gateway_is_optional and seen.value is None):
            return None
        return GatewayFrame(address, None, seen.problem, seen.silent_s)
