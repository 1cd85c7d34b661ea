"""Goes back to the last release that proved itself: loaded, looked at, switched to. On servers that do not run, too."""

import time
from typing import Any

from ..errors import OperatorError
from .audit import AuditLog
from .control import Control
from .events import Event, Tell, untold
from .fleet import Fleet
from .llm import DEFAULT_LLM, scoped
from .promote import Options, Outcome
from .release import UNRELEASED
from .servers import Servers, controls_of, locked
from .settle import DRAIN_S
from .smoke import SmokeItem, run_smoke


def rollback(
    fleet: Fleet,
    llm: str = DEFAULT_LLM,
    options: Options | None = None,
    tell: Tell = untold,
    audit: AuditLog | None = None,
) -> Outcome:
    """Put the last good release of an LLM live again on every server of a fleet.

    A promotion that is found half done is settled, and that is all where it went back. Raises OperatorError where there
    is nothing to go back to.
    """
    options = options or Options()

    told = tell if audit is None else audit.listening("rollback", tell, llm=llm)
    told(Event("note", "start", "asked for"))

    live: dict[str, str] = {}
    with locked(controls_of(fleet), "rollback", told) as servers:
        targets = _targets(servers, llm)
        for server in servers.there:
            live[server.name] = _roll_back(server, llm, targets[server.name], options, told)
        missing = servers.missing
    return Outcome("rolled back", "asked for", live, missing)


def _targets(servers: Servers, llm: str) -> dict[str, str | None]:
    """What each server goes back to; None: nowhere, it is back already.

    What was found half done, and went back, is all that is taken back where there was any; else it is what went live
    last anywhere. A server that has not got that stays as it is. Raises OperatorError where a server has nothing to go
    back to: nothing is changed on any then.
    """
    served: dict[str, dict[str, Any]] = {}
    for server in servers.there:
        found = server.status()["llms"].get(llm)
        if found is None:
            raise OperatorError(f"{server.name} has no LLM {llm!r}")
        served[server.name] = found
    earlier = {name: _earlier(one) for name, one in served.items() if name not in servers.settled_back}
    goals = [(served[name]["since"], names[-1]) for name, names in earlier.items() if names]
    went_back = [served[name]["live"] for name in servers.settled_back]
    goal = went_back[0] if went_back else max(goals, key=lambda one: one[0])[1] if goals else None
    targets: dict[str, str | None] = dict.fromkeys(served)
    for name, names in earlier.items():
        live = served[name]["live"]
        if live == goal and (went_back or goals):
            continue
        if not names:
            raise OperatorError(
                f"{name}: nothing was live before {live or UNRELEASED}, so nothing goes back on any server. "
                "`trireme release promote NAME` puts any release live on all of them"
            )
        targets[name] = goal if goal in names else names[-1]
    return targets


def _earlier(served: dict[str, Any]) -> list[str]:
    """What proved itself before what is live, the last of them at the end."""
    live, good = served["live"], served["good"]
    return list(good[: good.index(live)] if live in good else good)


def _roll_back(server: Control, llm: str, name: str | None, options: Options, tell: Tell) -> str:
    live = server.status()["llms"][llm]["live"]
    if name is None:
        tell(Event("done", "rollback", f"{live or UNRELEASED} is live already", server.name))
        return str(live or UNRELEASED)
    target = server.document(name)
    started = time.monotonic()
    status = server.status()
    if not status["serving"] and "tritonserver does not answer" in status["drift"]:
        server.point(target)
        tell(Event("done", "rollback", f"the server does not run; it starts with {target.name}", server.name))
        return target.name
    tell(Event("begin", "load", f"loading {target.name} ...", server.name))
    server.load(target, in_background=False)
    items = [SmokeItem.from_json(item) for item in target.smoke]
    if items:
        asked = run_smoke(
            server.target("grpc"), scoped(llm, target.name), items[:4], options.smoke_timeout_s, len(items[:4])
        )
        if asked.score < options.min_score:
            text = f"{target.name} answers {asked.right} of {len(items[:4])} prompts as expected"
            tell(Event("warning", "probe", text, server.name))
    server.switch(llm, target.name)
    seconds = round(time.monotonic() - started, 3)
    text = f"{target.name} is live again, {live or UNRELEASED} no more"
    figures = {"from": live or UNRELEASED, "to": target.name, "seconds": seconds}
    tell(Event("done", "rollback", text, server.name, figures))
    server.mark("proved")
    tell(Event("begin", "drain", f"draining {live or UNRELEASED} ...", server.name))
    if not server.free(llm, live, options.drain_timeout_s or DRAIN_S):
        tell(Event("warning", "drain", f"{live} still answers requests; it stays loaded", server.name))
    server.end("rolled back", "asked for")
    tell(Event("done", "drain", f"{live or UNRELEASED} has answered everything, and is freed", server.name))
    return target.name
