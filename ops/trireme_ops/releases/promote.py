"""Puts a release live, on one server or many: loads it next to what runs, proves it, shifts the traffic, watches.

    lock -> settle -> preflight -> load -> probe -> warm up -> switch -> watch -> proved -> drain -> free
                                     |       |         |         |        |
                                     +-------+---------+---------+--------+--> back: switch, drain, free

Until it is proved on every server, what was live before stays loaded on each, and going back is a switch.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from ..errors import OperatorError
from .audit import AuditLog
from .balancer import Balancer
from .control import ActRefused, Control, Unreachable
from .events import Event, Tell, untold
from .fleet import Fleet
from .llm import Llm, scoped
from .release import UNRELEASED, Release
from .servers import Servers, controls_of, locked
from .settle import go_back
from .smoke import SmokeItem, run_smoke, warm_up
from .ttft import compare_ttft
from .watch import Limits, ReleaseFigures, Sample, breach, figures, scrape

#: How often the figures are looked at while a release is watched, and what was live before is before that.
_LOOK_S = 0.5
_MOST_BASELINE_S = 10.0

#: How long a server may take to start again.
_RESTART_S = 180.0

#: How many times each prompt of the smoke set is asked of both releases to compare their TTFT, and to warm up.
_TTFT_ROUNDS = 3
_WARM_UP_ROUNDS = 1
_CONCURRENCY = 4


class Breach(OperatorError):
    """Why a release does not go live, or not on."""


@dataclass(frozen=True)
class Options:
    """How a release goes live.

    canary: shares of the traffic in percent, one after the other, where a balancer can give them. hold_s: how long each
    share, and the whole in the end, is watched. max_error_rate: of its requests, 0 to 1. max_ttft_ratio: its TTFT over
    that of what was live before. min_score: of the smoke set, 0 to 1. max_unavailable: servers at a time; None: as the
    fleet says. keep_old: leave what was live before loaded, to go back at once. drain_timeout_s: how long its last
    requests may take. smoke_timeout_s: for each prompt of the smoke set.
    """

    canary: tuple[float, ...] = ()
    hold_s: float = 10.0
    max_error_rate: float = 0.001
    max_ttft_ratio: float = 1.3
    min_score: float = 0.95
    max_unavailable: int | None = None
    keep_old: bool = False
    drain_timeout_s: float = 600.0
    smoke_timeout_s: float = 60.0

    @property
    def limits(self) -> Limits:
        """What the traffic is held to."""
        return Limits(self.max_error_rate, self.max_ttft_ratio)


@dataclass
class Outcome:
    """How it ended. result: promoted, unchanged or rolled back. servers: name -> what is live there."""

    result: str
    why: str
    servers: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def is_promoted(self) -> bool:
        """Whether the release is live wherever a server answered."""
        return self.result in ("promoted", "unchanged")


def promote(
    fleet: Fleet,
    release: Release,
    options: Options | None = None,
    tell: Tell = untold,
    audit: AuditLog | None = None,
    act: str = "promote",
) -> Outcome:
    """Put a release live. Raises OperatorError if nothing was changed, with the reason.

    Once a server has loaded it, any breach, error or Ctrl-C takes it back everywhere, and the Outcome says why. act:
    what this is called in the audit log.
    """
    return _Rollout(fleet, release, options or Options(), tell, audit, act).run()


class _Rollout:
    """One release on its way to the servers of a fleet."""

    def __init__(
        self, fleet: Fleet, release: Release, options: Options, tell: Tell, audit: AuditLog | None, act: str
    ) -> None:
        self._controls = controls_of(fleet)
        self._balancer = Balancer.of(fleet)
        self._at_a_time = options.max_unavailable or fleet.max_unavailable
        self._release = release
        self._options = options
        self._act = act
        self._tell = tell if audit is None else audit.listening(act, tell, release=release.name)
        self._llm = Llm.named(release.llm)
        self._smoke = [SmokeItem.from_json(item) for item in release.smoke]
        #: What was live before, by server; those that loaded the release, and those where it is live.
        self._left: dict[str, str | None] = {}
        self._loaded: list[Control] = []
        self._switched: list[Control] = []
        self._baselines: dict[str, ReleaseFigures] = {}
        self._servers = Servers()

    def _note(self, kind: Any, step: str, text: str, server: Control | None = None, **more: Any) -> None:
        self._tell(Event(kind, step, text, server.name if server else "", more))

    def run(self) -> Outcome:
        with locked(self._controls, f"{self._act} {self._release.name}", self._tell) as servers:
            self._servers = servers
            self._note("note", "start", f"{self._act} {self._release.name}")
            waiting = self._not_yet_live()
            if not waiting:
                self._note("done", "end", f"{self._release.name} is live already")
                return self._outcome("unchanged", "it is live already")
            if self._options.canary and (self._balancer is None or len(self._servers.there) < 2):
                self._note("warning", "canary", "nothing can give it a share: the public names are switched at once")
            self._preflight(waiting)
            try:
                self._measure_baseline(waiting)
                self._roll(waiting)
                self._prove()
            except (OperatorError, KeyboardInterrupt, OSError) as error:
                why = _why(error)
                self._roll_back(why)
                return self._outcome("rolled back", why)
            self._free_old()
            self._note("done", "end", f"{self._release.name} is live on {len(self._switched)} server(s)")
            return self._outcome("promoted", "")

    def _outcome(self, result: str, why: str) -> Outcome:
        live = {}
        for server in self._servers.there:
            try:
                live[server.name] = server.status()["llms"][self._llm.name]["live"] or UNRELEASED
            except (OperatorError, KeyError):
                live[server.name] = "?"
        return Outcome(result, why, live, self._servers.missing)

    def _not_yet_live(self) -> list[Control]:
        waiting = []
        for server in list(self._servers.there):
            served = server.status()["llms"].get(self._llm.name)
            if served is None:
                raise OperatorError(
                    f"{server.name} has no LLM {self._llm.name!r}; one that was added while it ran takes a start"
                )
            self._left[server.name] = served["live"]
            if served["live"] != self._release.name:
                waiting.append(server)
        return waiting

    def _preflight(self, servers: Sequence[Control]) -> None:
        for server in servers:
            status = server.status()
            if not status["serving"]:
                why = status["drift"][0] if status["drift"] else "one of its processes is being started again"
                raise OperatorError(f"{server.name} is not ready: {why}")
            with self._step("preflight", "checked versions, limits and memory", server):
                failed = [finding for finding in server.preflight(self._release) if finding["status"] == "fail"]
                if failed:
                    details = "; ".join(f"{finding['check']}: {finding['detail']}" for finding in failed)
                    raise OperatorError(f"{self._at(server)}{self._release.name} cannot go live: {details}")

    def _roll(self, waiting: list[Control]) -> None:
        """All servers, the first alone; what dies meanwhile is left out."""
        rest = list(waiting)
        while rest:
            server = rest.pop(0)
            try:
                self._bring_up(server)
                if self._canary_shares and len(self._servers.there) > 1:
                    self._canary(server)
                else:
                    self._switch_and_watch([server], self._options.hold_s)
                break
            except Unreachable as error:
                self._lost(server, str(error))
        for begin in range(0, len(rest), self._at_a_time):
            batch = rest[begin : begin + self._at_a_time]
            with ThreadPoolExecutor(len(batch)) as pool:
                results = [(server, pool.submit(self._bring_up, server)) for server in batch]
            ready: list[Control] = []
            for server, result in results:
                problem = result.exception()
                if isinstance(problem, Unreachable):
                    self._lost(server, str(problem))
                elif problem is not None:
                    raise problem
                else:
                    ready.append(server)
            self._switch_and_watch(ready, min(self._options.hold_s, _MOST_BASELINE_S))

    @property
    def _canary_shares(self) -> tuple[float, ...]:
        return self._options.canary if self._balancer is not None else ()

    def _lost(self, server: Control, why: str) -> None:
        for known in (self._loaded, self._switched):
            if server in known:
                known.remove(server)
        self._servers.drop(server, why, self._tell)

    def _bring_up(self, server: Control) -> None:
        """Load, probe and warm up; no client sees any of it. Raises Breach."""
        with self._step("load", f"loaded {self._release.name} next to what runs", server):
            self._loaded.append(server)
            try:
                server.load(self._release)
            except ActRefused as error:
                raise Breach(str(error)) from error
        self._probe(server)

    def _probe(self, server: Control) -> None:
        """Ask the new models directly, and compare them with the ones that are live."""
        if not self._smoke:
            self._note("warning", "probe", "the release has no smoke set: nobody knows whether it answers well", server)
            return
        address = server.target("grpc")
        candidate = scoped(self._llm.name, self._release.name)
        with self._step("probe", "", server) as said:
            result = run_smoke(address, candidate, self._smoke, self._options.smoke_timeout_s, _CONCURRENCY)
            said.append(f"{result.right} of {len(self._smoke)} answers as expected")
            if result.score < self._options.min_score:
                score = f"score {result.score:.3f} is below {self._options.min_score:g}"
                raise Breach(f"{self._at(server)}{score}: {result.wrong[0]}")
        with self._step("warm up", "warmed up", server):
            warm_up(address, candidate, self._smoke, _CONCURRENCY, _WARM_UP_ROUNDS)
        with self._step("compare", "", server) as said:
            compared = compare_ttft(address, self._llm.name, candidate, self._smoke, _TTFT_ROUNDS)
            said.append(
                f"TTFT {1000 * compared.new_p50_s:.1f} ms against {1000 * compared.old_p50_s:.1f} ms, "
                f"ratio {compared.ratio:.2f}"
            )
            if compared.is_slower_than(self._options.max_ttft_ratio):
                raise Breach(
                    f"{self._at(server)}its TTFT is {compared.ratio:.2f} times what it was, surely above "
                    f"{compared.low:.2f}; allowed are {self._options.max_ttft_ratio:g}"
                )

    def _canary(self, server: Control) -> None:
        """Give one server's share of the traffic to the release, step by step."""
        balancer = self._balancer
        assert balancer is not None
        others = [other for other in self._servers.there if other is not server]
        for share in self._canary_shares:
            given = balancer.give([server.name], [other.name for other in others], share)
            text = f"{self._release.name} has {given:.1f} % of the traffic"
            self._note("note", "canary", text, server, percent=given)
            if server not in self._switched:
                self._switch(server)
            self._watch([server], self._options.hold_s, others)
        balancer.restore([one.name for one in self._servers.there])

    def _switch_and_watch(self, servers: Sequence[Control], hold_s: float) -> None:
        for server in servers:
            self._switch(server)
        self._watch(servers, hold_s, [])

    def _switch(self, server: Control) -> None:
        with self._step("switch", f"{self._release.name} is behind the public names", server):
            self._switched.append(server)
            server.switch(self._llm.name, self._release.name)

    # Watching

    def _scrape(self, server: Control) -> Sample:
        """What a server has counted so far. Raises Unreachable if it is gone, and Breach if only its Triton is."""
        try:
            return scrape(f"http://{server.target('metrics')}/metrics")
        except OSError as error:
            server.status()
            raise Breach(f"{self._at(server)}its tritonserver stopped answering: {error}") from error

    def _figures(self, before: Mapping[str, Sample], server: Control, release: str | None) -> ReleaseFigures:
        """What a release did on a server since the sample in `before`."""
        sample = self._scrape(server)
        return figures(before[server.name], sample, self._llm.engine, release or "", [self._llm.preprocessing])

    def _measure_baseline(self, servers: Sequence[Control]) -> None:
        """How what is live does before anything is loaded beside it."""
        duration_s = min(self._options.hold_s, _MOST_BASELINE_S)
        if duration_s <= 0:
            return
        with self._step("baseline", f"watched what is live for {duration_s:g} s"):
            before = {server.name: self._scrape(server) for server in servers}
            time.sleep(duration_s)
            for server in servers:
                self._baselines[server.name] = self._figures(before, server, self._left[server.name])

    def _watch(self, servers: Sequence[Control], hold_s: float, others: Sequence[Control]) -> None:
        """Hold the release to its limits for a while, against `others` that serve what was live, or the baseline."""
        watched = list(servers)
        if not watched or hold_s <= 0:
            return
        names = ", ".join(server.name for server in watched)
        with self._step("watch", "", text_at_begin=f"watching {names} for {hold_s:g} s") as said:
            before = {server.name: self._scrape(server) for server in (*watched, *others)}
            asked = wrong = 0
            deadline = time.monotonic() + hold_s
            while True:
                is_last = time.monotonic() >= deadline
                for server in list(watched):
                    try:
                        seen = figures(before[server.name], self._scrape(server), self._llm.engine, self._release.name)
                        compared_with = self._compared_with(server, others, before)
                        items = self._some_of_smoke(asked)
                        result = run_smoke(
                            server.target("grpc"),
                            scoped(self._llm.name, self._release.name),
                            items,
                            self._options.smoke_timeout_s,
                            1,
                        )
                    except Unreachable as error:
                        self._lost(server, str(error))
                        watched.remove(server)
                        continue
                    asked, wrong = asked + len(items), wrong + len(result.wrong)
                    problem = breach(seen, compared_with, self._options.limits)
                    status = server.status()
                    if problem is None and not status["serving"]:
                        problem = "; ".join(["the server is not ready", *status["drift"][:1]])
                    if problem is None and asked and wrong / asked > 1 - self._options.min_score and wrong > 1:
                        problem = f"{wrong} of {asked} answers to the smoke set are wrong while it is live"
                    if problem is not None:
                        raise Breach(f"{self._at(server)}{problem}")
                    said[:] = [_described(self._release.name, seen)]
                if is_last or not watched:
                    break
                time.sleep(min(_LOOK_S, max(0.0, deadline - time.monotonic())))

    def _some_of_smoke(self, asked: int) -> list[SmokeItem]:
        """One of the prompts, each in its turn."""
        return [self._smoke[asked % len(self._smoke)]] if self._smoke else []

    def _compared_with(
        self, server: Control, others: Sequence[Control], before: dict[str, Sample]
    ) -> ReleaseFigures | None:
        """What a release on trial is held against: what another server does with the old one, else the baseline."""
        for other in others:
            if other in self._servers.there:
                return self._figures(before, other, self._left[other.name])
        return self._baselines.get(server.name)

    # The end of it

    def _prove(self) -> None:
        for server in self._switched:
            server.mark("proved")

    def _free_old(self) -> None:
        """Nothing that happens here takes the release back: it has proved itself."""
        for server in list(self._switched):
            left = self._left[server.name]
            try:
                if self._options.keep_old:
                    self._note("note", "keep", f"{left or UNRELEASED} stays loaded", server)
                else:
                    with self._step("drain", f"{left or UNRELEASED} has answered everything, and is freed", server):
                        self._free(server, left)
                server.end("promoted", "")
            except Unreachable as error:
                self._lost(server, str(error))
            except (OperatorError, OSError) as error:
                self._note("warning", "drain", str(error), server)

    def _free(self, server: Control, release: str | None) -> None:
        if not server.free(self._llm.name, release, self._options.drain_timeout_s):
            raise OperatorError(
                f"{release or UNRELEASED} still answers requests after {self._options.drain_timeout_s:g} s; it stays "
                "loaded, and the next promote, rollback or free drains it"
            )

    def _roll_back(self, why: str) -> None:
        """Everywhere back to what was live before; each server by itself, whatever becomes of the others."""
        for server in reversed(self._switched):
            self._attempt("switch back", server, self._back, f"{self._shown_left(server)} is live again")
        if self._balancer is not None:
            try:
                self._balancer.restore([server.name for server in self._servers.there])
            except OperatorError as error:
                self._note("warning", "balancer", str(error))
        for server in self._loaded:
            self._attempt("free", server, self._discard, f"{self._release.name} is freed")
            try:
                server.end("rolled back", why)
            except OperatorError as error:
                self._note("warning", "journal", str(error), server)

    def _shown_left(self, server: Control) -> str:
        return self._left[server.name] or UNRELEASED

    def _back(self, server: Control) -> None:
        if server.status()["llms"][self._llm.name]["live"] == self._release.name:
            go_back(server, self._llm.name, self._release.name, self._left[server.name])

    def _discard(self, server: Control) -> None:
        self._free(server, self._release.name)

    def _attempt(self, step: str, server: Control, act: Callable[[Control], None], text: str) -> None:
        """Do something to a server, which may just be starting again."""
        deadline = time.monotonic() + _RESTART_S
        with suppress(OperatorError), self._step(step, text, server):
            while True:
                try:
                    server.wait_until_idle()
                    act(server)
                    return
                except ActRefused:
                    if server.status()["serving"] or time.monotonic() > deadline:
                        raise
                time.sleep(_LOOK_S)

    def _at(self, server: Control) -> str:
        """In front of what is said of one server of several."""
        return f"{server.name}: " if len(self._controls) > 1 else ""

    @contextmanager
    def _step(
        self, step: str, text: str, server: Control | None = None, text_at_begin: str = ""
    ) -> Iterator[list[str]]:
        """Tell the begin and the end of a step; what it appends to the list is said in the end."""
        said: list[str] = []
        started = time.monotonic()
        self._note("begin", step, text_at_begin or f"{step} ...", server)
        try:
            yield said
        except BaseException as error:
            self._note("failed", step, _why(error), server)
            raise
        seconds = time.monotonic() - started
        self._note("done", step, "; ".join([*([text] if text else []), *said]), server, seconds=round(seconds, 3))


def _why(error: BaseException) -> str:
    return "interrupted by the operator" if isinstance(error, KeyboardInterrupt) else str(error) or repr(error)


def _described(release: str, seen: ReleaseFigures) -> str:
    if not seen.requests:
        return f"{release} was asked nothing"
    text = f"{release} answered {seen.requests:g} requests, {100 * seen.error_rate:.2f} % with errors"
    return text if seen.ttft_p99_s is None else f"{text}, TTFT p99 {1000 * seen.ttft_p99_s:.0f} ms"
