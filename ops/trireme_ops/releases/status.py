"""What is live on each server, since when, how much traffic each release had, and what is not as it should be."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import OperatorError
from .audit import AuditLog
from .control import Control, Unreachable
from .events import Tell, untold
from .fleet import Fleet
from .llm import Llm
from .release import UNRELEASED
from .servers import controls_of
from .settle import settle
from .watch import Sample, figures, scrape


@dataclass(frozen=True)
class Traffic:
    """What a release was asked on a server, probes included. errors: those that are the server's fault.

    The times are of what was asked since it was last loaded, None where it is not.
    """

    release: str
    requests: float
    errors: float
    ttft_p50_s: float | None
    ttft_p99_s: float | None


@dataclass(frozen=True)
class LlmStatus:
    """One LLM of one server. live, loaded and good are names of releases, or "unreleased"; since is in UTC."""

    llm: str
    live: str
    since: str
    loaded: list[str]
    versions: Mapping[str, int]
    previous: str
    traffic: list[Traffic] = field(default_factory=list)


@dataclass(frozen=True)
class ServerStatus:
    """One server. problem: why nothing is known of it. drift: what is not as it should be, in sentences."""

    server: str
    serving: bool = False
    started: str = ""
    llms: list[LlmStatus] = field(default_factory=list)
    drift: list[str] = field(default_factory=list)
    doing: str = ""
    operator: str = ""
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def status(
    fleet: Fleet, tell: Tell = untold, settles: bool = True, audit: AuditLog | None = None
) -> list[ServerStatus]:
    """Look at every server of a fleet; what is found half done there, and nobody is at, is settled first."""
    told = tell if audit is None else audit.listening("status", tell)
    return [_status_of(server, told, settles) for server in controls_of(fleet)]


def _status_of(server: Control, tell: Tell, settles: bool) -> ServerStatus:
    try:
        seen = server.status()
        if settles and seen["promotion"] and not seen["lock"]:
            with server:
                found = server.lock("status")
                if found is not None:
                    settle(server, found, tell)
            seen = server.status()
    except Unreachable as error:
        return ServerStatus(server.name, problem=str(error))
    held = seen["lock"]
    return ServerStatus(
        server=server.name,
        serving=seen["serving"],
        started=seen["started"],
        llms=[_llm(server, seen, name, served) for name, served in sorted(seen["llms"].items())],
        drift=seen["drift"],
        doing=seen["doing"],
        operator=f"{held['operator']} (process {held['pid']}): {held['purpose']}" if held else "",
    )


def _llm(server: Control, seen: Mapping[str, Any], name: str, served: Mapping[str, Any]) -> LlmStatus:
    live, good = served["live"], served["good"]
    earlier = good[: good.index(live)] if live in good else good
    return LlmStatus(
        llm=name,
        live=live or UNRELEASED,
        since=served["since"] or seen["started"],
        loaded=[release or UNRELEASED for release in served["loaded"]],
        versions=served["versions"].get(live, {}),
        previous=earlier[-1] if earlier else "",
        traffic=_traffic(server, seen, name, served["loaded"]),
    )


def _traffic(server: Control, seen: Mapping[str, Any], llm: str, loaded: Sequence[str | None]) -> list[Traffic]:
    """What each release did: before it was unloaded, and since it is loaded."""
    earlier = dict(seen["traffic"].get(llm, {}))
    try:
        sample = scrape(f"http://{server.address.host}:{seen['ports']['metrics']}/metrics")
    except (OSError, OperatorError):
        sample = Sample({})
    traffic = []
    models = Llm.named(llm)
    for release in loaded:
        now = figures(None, sample, models.engine, release or "", [models.preprocessing])
        then = earlier.pop(release or UNRELEASED, {"requests": 0.0, "errors": 0.0})
        requests, errors = now.requests + then["requests"], now.errors + then["errors"]
        traffic.append(Traffic(release or UNRELEASED, requests, errors, now.ttft_p50_s, now.ttft_p99_s))
    for name, then in earlier.items():
        traffic.append(Traffic(name, then["requests"], then["errors"], None, None))
    return traffic


def table(servers: list[ServerStatus]) -> str:
    """For a person."""
    lines = []
    for server in servers:
        state = server.problem or ("serving" if server.serving else "NOT serving")
        lines.append(f"{server.server}: {state}{f', {server.doing}' if server.doing else ''}")
        if server.operator:
            lines.append(f"  at work: {server.operator}")
        for llm in server.llms:
            versions = ", ".join(f"{model}/{number}" for model, number in llm.versions.items())
            lines.append(f"  {llm.llm}: {llm.live} since {llm.since}{f' ({versions})' if versions else ''}")
            if llm.previous:
                lines.append(f"    to go back to: {llm.previous}")
            for traffic in llm.traffic:
                ttft = "" if traffic.ttft_p50_s is None else f", TTFT p50 {1000 * traffic.ttft_p50_s:.0f} ms"
                ttft += "" if traffic.ttft_p99_s is None else f", p99 {1000 * traffic.ttft_p99_s:.0f} ms"
                lines.append(
                    f"    {traffic.release}: {traffic.requests:g} requests, {traffic.errors:g} with errors{ttft}"
                )
        lines += [f"  ! {sentence}" for sentence in server.drift]
    return "\n".join(lines)
