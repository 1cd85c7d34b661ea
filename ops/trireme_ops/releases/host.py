"""The server's side of a release: loads it next to what runs, switches the public names, lets the old one go.

Lives in the supervisor's process and is called through its endpoint, see `endpoint`. Whoever puts releases live is
told every step's end, and may be killed at any point: what a server serves is a whole release after each.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trireme_runtime import background
from trireme_runtime.shared_state import SHM, BackgroundMark

from ..engines import prepare_engine
from ..errors import OperatorError, Refused
from ..layout import Layout
from ..processes import is_running, session_members
from ..server import ControlError, EmbeddedServer
from . import view as views
from .journal import Journal, Promotion, before
from .llm import Llm, llms, scoped
from .release import UNRELEASED, Release, manifest_digest, now, propose
from .rest import wait_until_answered
from .smoke import default_smoke
from .view import Served, View
from .watch import Sample, figures

if TYPE_CHECKING:
    from .shadow import Shadow

#: What is done to releases, as it is called where its time is measured.
ACTS = ("load", "switch", "drain", "shadow", "point")

#: For how long a lock holds whose owner is not heard of, and cannot be looked for on this machine.
LEASE_S = 30.0

#: The name of what a server serves without a release, until one goes live.
_AT_START = "at-start"

#: For how long a release is loaded at a low priority; after that it is loaded as anything else.
_BACKGROUND_S = 30.0


@dataclass
class Lock:
    """Who may change what is served. host, pid and started name the process, if it is one of this machine."""

    token: str
    operator: str
    machine: str
    pid: int
    purpose: str
    since: str
    heard_at: float


class ReleaseHost:
    """What can be done to one server. All but `status`, `lock`, `drain` and `resume` need the token of the lock."""

    def __init__(self, layout: Layout, server: EmbeddedServer, view: View, name: str) -> None:
        self._layout = layout
        self._server = server
        self._view = view
        self._name = name
        self._lock: Lock | None = None
        self._guard = threading.RLock()
        self._act = threading.Lock()
        self._doing = ""
        self._act_now: tuple[str, float] | None = None
        self._shadow: Shadow | None = None
        self._started = now()
        self.is_serving: Callable[[], bool] = lambda: False
        #: Tells the supervisor whether balancers may send new requests; reads it where nothing is given.
        self.draining: Callable[[bool | None], bool] = lambda _wanted: False
        #: What is served without a release, as it is now: further versions may be published while it is.
        self._at_start = {llm.name: made for llm in llms(layout) if (made := self._as_served(llm)) is not None}
        self._journal = Journal(view.folder, lambda: self._lock.operator if self._lock is not None else "")

    def _as_served(self, llm: Llm) -> Release | None:
        """The versions of an LLM that this server loads without a release, as one."""
        served = {folder.parent.name: folder.name for folder in self._layout.served_versions}
        try:
            changes = {model: served[model] for model in llm.models}
            return propose(self._layout, _AT_START, llm.name, changes, smoke=default_smoke(self._layout, llm.name))
        except (OperatorError, KeyError):
            # Broken, and nothing to go back to.
            return None

    # Who may

    def lock(self, operator: str, machine: str, pid: int, purpose: str) -> dict[str, Any]:
        """Give the lock. Raises Refused naming who holds it."""
        with self._guard:
            held = self._lock
            if held is not None and not _is_stale(held):
                raise Refused(
                    f"{held.operator} (process {held.pid} on {held.machine}) has been at work on {self._name} "
                    f"since {held.since}: {held.purpose}"
                )
            # Whoever wanted it is gone.
            self._stop_shadow()
            self._lock = Lock(secrets.token_urlsafe(16), operator, machine, pid, purpose, now(), time.monotonic())
            promotion = self._journal.promotion()
            return {"token": self._lock.token, "found": asdict(promotion) if promotion else None}

    def renew(self, token: str) -> dict[str, Any]:
        """Say that whoever holds the lock is still there."""
        self._check(token)
        return {}

    def unlock(self, token: str) -> dict[str, Any]:
        """Give the lock back."""
        with self._guard:
            self._check(token)
            self._lock = None
        return {}

    def _check(self, token: str) -> None:
        with self._guard:
            if self._lock is None or not secrets.compare_digest(self._lock.token, token):
                raise Refused("the lock is not yours any more: another operator has taken it")
            self._lock.heard_at = time.monotonic()

    # Whether requests come

    def drain(self) -> dict[str, Any]:
        """Have balancers send nothing new; what is under way goes on, and so does who calls the server directly."""
        self.draining(True)
        return {"in_flight": self._in_flight()}

    def resume(self) -> dict[str, Any]:
        """Have balancers send requests again."""
        self.draining(False)
        return {}

    def _in_flight(self) -> int | None:
        """Generations that run or wait; None where the server does not say."""
        try:
            return self._server.in_flight()
        except OSError:
            return None

    # What is

    def acts(self) -> dict[str, float]:
        """Each of ACTS, and when it was begun if it is being done now, in Unix time; else 0."""
        act, since = self._act_now or ("", 0.0)
        return {name: since if name == act else 0.0 for name in ACTS}

    def live(self) -> dict[str, str | None]:
        """The release behind each LLM's public names. Raises OperatorError where a file is damaged."""
        return {name: served.live for name, served in self._view.state().llms.items()}

    def promotion(self) -> Promotion | None:
        """The release that is on its way. Raises OperatorError where a file is damaged."""
        return self._journal.promotion()

    def is_locked(self) -> bool:
        """Whether somebody who is heard of may change what is served."""
        held = self._lock
        return held is not None and not _is_stale(held)

    def status(self) -> dict[str, Any]:
        """What is live, since when, what is loaded, what is on its way, and what differs from what it should be."""
        state = self._view.state()
        promotion, held = self._journal.promotion(), self._lock
        return {
            "server": self._name,
            "started": self._started,
            "serving": self.is_serving(),
            "draining": self.draining(None),
            "in_flight": self._in_flight(),
            "pid": os.getpid(),
            "ports": asdict(self._server.ports),
            "llms": {name: self._described(served) for name, served in state.llms.items()},
            "promotion": asdict(promotion) if promotion else None,
            "lock": None
            if held is None or _is_stale(held)
            else {k: v for k, v in asdict(held).items() if k != "token"},
            "doing": self._doing,
            "drift": self._drift(),
            "traffic": self._traffic(),
        }

    def _described(self, served: Served) -> dict[str, Any]:
        versions: dict[str, Mapping[str, int]] = {}
        for release in {*served.loaded, served.live, *served.good[-2:]} - {None}:
            assert release is not None
            versions[release] = self._view.document(release).versions
        return {**asdict(served), "versions": versions}

    def _drift(self) -> list[str]:
        """What is not as the view says, each as a sentence."""
        found = []
        state = self._view.state()
        try:
            index = self._server.index()
        except (OSError, ControlError):
            return ["tritonserver does not answer"]
        for name in self._view.serving():
            if "READY" not in index.get(name, set()):
                found.append(f"{name} should be ready, and is {', '.join(sorted(index.get(name, ()))) or 'not loaded'}")
        known = {path.name for path in self._view.current.iterdir()}
        for name, states in sorted(index.items()):
            if "READY" in states and name not in known:
                found.append(f"{name} is loaded, and should not be")
        for served in state.llms.values():
            for release in served.loaded:
                if release is not None:
                    found += self._changed(self._view.document(release))
                if release != served.live and self._journal.promotion() is None:
                    found.append(f"{release or UNRELEASED} is loaded beside {served.live or UNRELEASED}")
        return found

    def _changed(self, release: Release) -> list[str]:
        found = []
        for model, digest in release.manifests.items():
            try:
                if manifest_digest(release.version_folder(self._layout, model)) != digest:
                    found.append(f"{model}/{release.versions[model]} is not the one that {release.name} pins any more")
            except OperatorError as error:
                found.append(str(error))
        return found

    # What can be done

    def preflight(self, token: str, document: Any) -> dict[str, Any]:
        """Look whether a release can be put live; nothing is loaded. Returns the findings."""
        from .preflight import preflight

        self._check(token)
        release = Release.from_json(document)
        live = self._view.state().of(release.llm).live
        found = preflight(self._layout, release, live=None if live is None else self._view.document(live))
        return {"findings": [asdict(finding) for finding in found]}

    def load(self, token: str, document: Any, in_background: bool = True) -> dict[str, Any]:
        """Load a release next to what runs. Raises Refused with the reason if it cannot be; nothing is left of it.

        in_background: leave the processors to what serves meanwhile; it takes longer then.
        """
        self._check(token)
        release = Release.from_json(document)
        llm = self._llm(release.llm)
        with self._acting("load", f"loading {release.name}"):
            served = self._view.state().of(llm.name)
            if release.name in served.loaded:
                return {"loaded": list(served.loaded), "new": False}
            changed = self._changed(release)
            if changed:
                raise Refused(changed[0])
            if served.live is None and not served.good and llm.name in self._at_start:
                self._view.keep(replace(self._at_start[llm.name], name=before(release.name)))
            goes_back = self._journal.goes_back_to(release.name)
            if not goes_back:
                self._journal.begin(llm.name, release.name, served.live)
            started = time.monotonic()
            try:
                self._prepare_engine(release)
                self._view.add(release)
                with self._view.lock:
                    state = self._view.state()
                    served = state.of(llm.name)
                    self._view.write(state.with_llm(llm.name, replace(served, loaded=(*served.loaded, release.name))))
                names = [scoped(name, release.name) for name in (*llm.steps, *llm.ensembles)]
                with self._in_background() if in_background else nullcontext():
                    for number, name in enumerate(names, 1):
                        self._doing = f"loading {name} ({number} of {len(names)})"
                        self._server.load_model(name)
            except (ControlError, OSError, OperatorError) as error:
                self._let_go(llm, release.name)
                why = f"{release.name} cannot be loaded: {_first_lines(str(error))}"
                if not goes_back:
                    self._journal.end("rolled back", why)
                raise Refused(why, 422) from error
            if not goes_back:
                self._journal.mark("loaded")
            return {"new": True, "seconds": time.monotonic() - started}

    def switch(self, token: str, llm: str, release: str | None) -> dict[str, Any]:
        """Put a loaded release behind the public names; requests under way stay where they are."""
        self._check(token)
        names = self._llm(llm)
        with self._acting("switch", f"switching to {release or UNRELEASED}"), self._view.lock:
            state = self._view.state()
            served = state.of(llm)
            if release not in served.loaded:
                raise Refused(f"{release or UNRELEASED} is not loaded")
            if served.live == release:
                return {"switched": False}
            self._journal.mark("switching")
            self._view.write(state.with_llm(llm, views.went_live(served, release)))
            try:
                self._load_public(names, None in served.loaded)
            except (ControlError, OSError) as error:
                self._view.write(state)
                self._reload_public_quietly(names, served)
                raise Refused(
                    f"the public names cannot be switched to {release or UNRELEASED}: {error}", 500
                ) from error
            self._journal.mark("watching")
            return {"switched": True, "left": served.live}

    def _load_public(self, llm: Llm, models_run: bool) -> None:
        for name in (*llm.ensembles, *(() if models_run else llm.steps)):
            self._server.load_model(name)

    def _reload_public_quietly(self, llm: Llm, served: Served) -> None:
        try:
            self._load_public(llm, None in served.loaded)
        except (ControlError, OSError) as error:
            self._journal.note("error", error=str(error))

    def mark(self, token: str, phase: str) -> dict[str, Any]:
        """Write to the journal how far a promotion is: proved, or watching again."""
        self._check(token)
        with self._guard:
            self._journal.mark(phase)
            promotion = self._journal.promotion()
            if promotion is not None and phase == "proved":
                with self._view.lock:
                    state = self._view.state()
                    left = promotion.left or before(promotion.release)
                    self._view.write(state.with_llm(promotion.llm, views.proved(state.of(promotion.llm), left)))
        return {}

    def free(self, token: str, llm: str, release: str | None, timeout_s: float) -> dict[str, Any]:
        """Unload a release that is not live, once the requests that it has are answered.

        at_rest: false if some were not in `timeout_s`; then it stays loaded, and nothing is lost.
        """
        self._check(token)
        names = self._llm(llm)
        with self._acting("drain", f"draining {release or UNRELEASED}"):
            served = self._view.state().of(llm)
            if release == served.live:
                raise Refused(f"{release or UNRELEASED} is live")
            if release not in served.loaded:
                return {"at_rest": True, "seconds": 0.0}
            self._journal.mark("freeing")
            started = time.monotonic()
            if not wait_until_answered(self._server, names, release, timeout_s, lambda: self._is_held_by(token)):
                return {"at_rest": False, "seconds": time.monotonic() - started}
            self._let_go(names, release)
            return {"at_rest": True, "seconds": time.monotonic() - started}

    def start_shadow(self, token: str, release: str, fraction: float, show_texts: bool) -> dict[str, Any]:
        """Copy a share of the live traffic to a release that is loaded and not live."""
        from .shadow import Shadow

        self._check(token)
        with self._acting("shadow", f"beginning to copy traffic to {release}"):
            self._stop_shadow()
            document = self._view.document(release)
            llm = Llm.named(document.llm)
            served = self._view.state().of(llm.name)
            if release not in served.loaded or release == served.live:
                raise Refused(f"{release} is {'live' if release == served.live else 'not loaded'}")
            self._shadow = Shadow(
                shm_prefix=self._server.shm_prefix,
                address=f"{self._server.ports.host}:{self._server.ports.grpc}",
                llm=llm,
                live=served.live,
                release=release,
                tokenizer=self._live_version(llm, served.live) / "tokenizer",
                fraction=fraction,
                explicit=tuple(document.sampling),
                show_texts=show_texts,
            ).start()
        self._journal.note("shadow", llm=llm.name, release=release, fraction=fraction)
        return {}

    def _live_version(self, llm: Llm, live: str | None) -> Path:
        if live is not None:
            return self._view.document(live).version_folder(self._layout, llm.engine)
        return next(folder for folder in self._layout.served_versions if folder.parent.name == llm.engine)

    def shadow_report(self, token: str) -> dict[str, Any]:
        """What was seen so far; see `Shadow.report`."""
        self._check(token)
        if self._shadow is None:
            raise Refused("no traffic is copied")
        return self._shadow.report()

    def stop_shadow(self, token: str) -> dict[str, Any]:
        """Copy no more; the last report."""
        self._check(token)
        if self._shadow is None:
            raise Refused("no traffic is copied")
        return self._stop_shadow()

    def _stop_shadow(self) -> dict[str, Any]:
        shadow, self._shadow = self._shadow, None
        return {} if shadow is None else shadow.stop()

    def end(self, token: str, outcome: str, why: str) -> dict[str, Any]:
        """Close the journal's entry of a promotion."""
        self._check(token)
        self._journal.end(outcome, why)
        return {}

    def _is_held_by(self, token: str) -> bool:
        return self._lock is not None and self._lock.token == token and not _is_stale(self._lock)

    def _let_go(self, llm: Llm, release: str | None) -> None:
        """Unload what is not live, and forget its folders. What Triton says to it is written down."""
        with self._view.lock:
            state = self._view.state()
            served = state.of(llm.name)
            if release not in served.loaded:
                return
            self._remember_traffic(llm, release)
            left = tuple(name for name in served.loaded if name != release)
            self._view.write(state.with_llm(llm.name, replace(served, loaded=left)))
        if release is None:
            # The models behind the plain names give way to graphs over the live release; they end what they have.
            for model in llm.steps:
                self._attempt(self._server.load_model, model)
            return
        for name in (*reversed(llm.ensembles), *reversed(llm.steps)):
            self._attempt(self._server.unload_model, scoped(name, release))
        self._wait_until_gone(llm, release)
        self._view.remove(release)
        for path in SHM.iterdir():
            # Of processes that died: those that end in good order take theirs along.
            if path.name.startswith(self._server.shm_prefix) and f"@{release}." in path.name:
                path.unlink(missing_ok=True)

    def _remember_traffic(self, llm: Llm, release: str | None) -> None:
        """Add what a release did to what it had done before: its counters go with its models."""
        try:
            sample = Sample.parse(self._server.metrics_text())
        except (OSError, OperatorError):
            return
        seen = figures(None, sample, llm.engine, release or "", [llm.preprocessing])
        totals = self._traffic()
        earlier = totals.get(llm.name, {}).get(release or UNRELEASED, {"requests": 0.0, "errors": 0.0})
        totals.setdefault(llm.name, {})[release or UNRELEASED] = {
            "requests": earlier["requests"] + seen.requests,
            "errors": earlier["errors"] + seen.errors,
        }
        staging = self._view.folder / ".traffic.json"
        staging.write_text(json.dumps(totals), encoding="utf-8")
        staging.rename(self._view.folder / "traffic.json")

    def _traffic(self) -> dict[str, dict[str, dict[str, float]]]:
        """LLM -> release -> requests and errors, before its models were unloaded."""
        try:
            found: dict[str, dict[str, dict[str, float]]] = json.loads(
                (self._view.folder / "traffic.json").read_text(encoding="utf-8")
            )
        except (OSError, ValueError):
            return {}
        return found

    def _attempt(self, act: Callable[[str], None], name: str) -> None:
        try:
            act(name)
        except (ControlError, OSError) as error:
            self._journal.note("error", error=f"{name}: {error}")

    def _wait_until_gone(self, llm: Llm, release: str, timeout_s: float = 60) -> None:
        """Until the processes of a release's models have ended."""
        names = {scoped(model, release) for model in llm.steps}
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            running = [status for status in self._server.statuses() if status.model in names and is_running(status.pid)]
            if not running:
                return
            time.sleep(0.05)

    def document(self, token: str, release: str) -> dict[str, Any]:
        """A release that this server was given once."""
        self._check(token)
        return self._view.document(release).to_json()

    def point(self, token: str, llm: str, document: Any) -> dict[str, Any]:
        """Have the next start of a server that does not run serve this release. Raises Refused while it runs."""
        self._check(token)
        release = Release.from_json(document)
        with self._acting("point", f"pointing to {release.name}"), self._view.lock:
            if self._server.is_live(timeout_s=2):
                raise Refused(f"{self._name} runs; load the release, and switch to it")
            self._prepare_engine(release)
            self._view.add(release)
            state = self._view.state()
            served = views.went_live(replace(state.of(llm), loaded=(release.name,)), release.name)
            self._view.write(state.with_llm(llm, views.proved(served, release.name)))
            self._journal.end("rolled back", f"the server did not run; it starts again with {release.name}")
            self._journal.note("pointed", llm=llm, release=release.name)
        return {}

    def _llm(self, name: str) -> Llm:
        served = self._view.state().llms
        if name not in served:
            raise Refused(
                f"{self._name} has no LLM {name[:60]!r}; it has {', '.join(served)}. "
                "One that was added while it ran is served from the next start on",
                404,
            )
        return Llm.named(name)

    def _prepare_engine(self, release: Release) -> None:
        prepare_engine(release.version_folder(self._layout, Llm.named(release.llm).engine), self._layout.root)

    @contextmanager
    def _in_background(self) -> Iterator[None]:
        """What is loaded meanwhile leaves the processors to what serves."""
        mark = BackgroundMark(self._server.shm_prefix)

        def hurry() -> None:
            mark.remove()
            background.return_all(session_members(self._server.process.pid))

        # Where the processors are never idle, what waits for that would never be loaded.
        timer = threading.Timer(_BACKGROUND_S, hurry)
        timer.daemon = True
        mark.make()
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            mark.remove()

    @contextmanager
    def _acting(self, act: str, what: str) -> Iterator[None]:
        """One act at a time, one of ACTS."""
        if not self._act.acquire(blocking=False):
            raise Refused(f"{self._name} is {self._doing or 'busy'}")
        try:
            self._doing = what
            self._act_now = (act, time.time())
            yield
        finally:
            self._doing = ""
            self._act_now = None
            self._act.release()


def _first_lines(reason: str) -> str:
    """What went wrong, in a line, without the stack that Triton adds; its log has all of it."""
    text = reason.partition("\nAt:")[0]
    return " ".join(text.split())[:600]


def _is_stale(lock: Lock) -> bool:
    """Whether its owner is gone."""
    if lock.machine == socket.gethostname():
        return not is_running(lock.pid)
    return time.monotonic() - lock.heard_at > LEASE_S
