"""One moment of everything that is watched, as figures: what is drawn, and what programs get."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from typing import Any

from .figures import Figures, GatewayFigures, Gpu, Served, together
from .rates import Growth, histogram, joined, summed

#: How many samples the history holds.
HISTORY = 60


class State(Enum):
    """How a server is. UP: its metrics answer, and it has no supervisor that could say more."""

    READY = "ready"
    UP = "up"
    NOT_READY = "not ready"
    HALF = "half"
    DOWN = "down"
    STARTING = "asking"


@dataclass(frozen=True)
class Proxied:
    """What HAProxy says of a server in one backend. status: such as UP, DRAIN, MAINT, DOWN."""

    backend: str
    status: str
    weight: int
    sessions: int
    queued: int


@dataclass(frozen=True)
class ServerFrame:
    """One server. silent_s: how long nothing has answered, if it is down. live: LLM -> its release, "" for none,
    where it is known. restarts: of tritonserver, since its supervisor began; None where it is not known."""

    name: str
    metrics: str
    health: str
    state: State
    silent_s: float = 0.0
    problem: str = ""
    restarts: float | None = None
    live: Mapping[str, str] | None = None
    served: Sequence[Served] = ()
    gpus: Sequence[Gpu] = ()
    proxied: Sequence[Proxied] = ()

    @property
    def figures(self) -> Figures:
        """Of all its LLMs and releases."""
        return together(one.figures for one in self.served)

    def is_live(self, one: Served) -> bool | None:
        """Whether a release has this server's public names; None where it is not known."""
        if self.live is not None and one.llm in self.live:
            return self.live[one.llm] == one.release
        return True if sum(other.llm == one.llm for other in self.served) == 1 else None


@dataclass(frozen=True)
class ReleaseFrame:
    """A release of an LLM over all servers. live_on: how many have it live, None where that is not known of one."""

    llm: str
    release: str
    versions: tuple[str, ...]
    live_on: int | None
    loaded_on: int
    figures: Figures


@dataclass(frozen=True)
class GatewayFrame:
    """The gateway. figures: None where it does not answer, or not to whom it does not know."""

    address: str
    figures: GatewayFigures | None
    problem: str = ""
    silent_s: float = 0.0


@dataclass(frozen=True)
class Frame:
    """All of it. at: in UTC; notes: what keeps a figure from being shown, in sentences."""

    name: str
    at: datetime
    interval_s: float
    window_s: float
    servers: Sequence[ServerFrame]
    gateway: GatewayFrame | None = None
    has_haproxy: bool = False
    notes: Sequence[str] = ()
    ttft_slo_s: float | None = None

    @property
    def total(self) -> Figures:
        """Of all servers."""
        return together(server.figures for server in self.servers)

    @property
    def releases(self) -> list[ReleaseFrame]:
        """Of all servers, by LLM and name."""
        keys = sorted({(one.llm, one.release) for server in self.servers for one in server.served})
        found = []
        for llm, release in keys:
            having = [
                (server, one)
                for server in self.servers
                for one in server.served
                if (one.llm, one.release) == (llm, release)
            ]
            live = [server.is_live(one) for server, one in having]
            versions = tuple(sorted({version for _, one in having for version in one.versions}))
            live_on = None if None in live else sum(map(bool, live))
            figures = together(one.figures for _, one in having)
            found.append(ReleaseFrame(llm, release, versions, live_on, len(having), figures))
        return found

    def to_json(self) -> dict[str, Any]:
        """For programs; times in s, shares from 0 to 1, null for what is not known."""
        return {
            "name": self.name,
            "at": self.at.astimezone(timezone.utc).isoformat(timespec="milliseconds"),
            "interval_s": self.interval_s,
            "window_s": self.window_s,
            "total": self.total.to_json(self.ttft_slo_s),
            "servers": [self._server(server) for server in self.servers],
            "releases": [
                {
                    "llm": one.llm,
                    "release": one.release or None,
                    "versions": list(one.versions),
                    "live_on": one.live_on,
                    "loaded_on": one.loaded_on,
                    **one.figures.to_json(self.ttft_slo_s),
                }
                for one in self.releases
            ],
            "gateway": None if self.gateway is None else _gateway(self.gateway),
            "notes": list(self.notes),
        }

    def _server(self, server: ServerFrame) -> dict[str, Any]:
        is_down = server.state is State.DOWN
        return {
            "name": server.name,
            "metrics": server.metrics,
            "health": server.health or None,
            "state": server.state.value,
            "down_s": round(server.silent_s, 3) if is_down else None,
            "problem": server.problem or None,
            "restarts": server.restarts,
            **server.figures.to_json(self.ttft_slo_s),
            "gpus": [vars(gpu) for gpu in server.gpus],
            "haproxy": {one.backend: {k: v for k, v in vars(one).items() if k != "backend"} for one in server.proxied},
            "releases": [
                {
                    "llm": one.llm,
                    "release": one.release or None,
                    "versions": list(one.versions),
                    "live": server.is_live(one),
                    "engine_up": one.is_up,
                    **one.figures.to_json(self.ttft_slo_s),
                }
                for one in server.served
            ],
        }


def _gateway(gateway: GatewayFrame) -> dict[str, Any]:
    figures = {} if gateway.figures is None else gateway.figures.to_json()
    return {"address": gateway.address, "problem": gateway.problem or None, **figures}


@dataclass
class History:
    """The last samples of all servers together, oldest first: tokens/s, and p95 of the TTFT in s; None for none."""

    tokens_per_s: deque[float | None] = field(default_factory=lambda: deque(maxlen=HISTORY))
    ttft_p95_s: deque[float | None] = field(default_factory=lambda: deque(maxlen=HISTORY))

    def add(self, last: Sequence[Growth]) -> None:
        """One more sample, from what each server counted last."""
        known = [grown for grown in last if grown.elapsed_s]
        tokens = [summed(grown.counts, "trireme_generated_tokens_total") / grown.elapsed_s for grown in known]
        self.tokens_per_s.append(sum(tokens) if tokens else None)
        ttft = joined(histogram(grown.counts, "trireme_time_to_first_token_seconds") for grown in known)
        self.ttft_p95_s.append(ttft.quantile(0.95))
