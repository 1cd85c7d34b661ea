"""Goes back to the last release that proved itself: loaded, looked at, switched to. On servers that do not run, too."""

import time

from ..errors import OperatorError
from .audit import AuditLog
from .control import Control
from .events import Event, Tell, untold
from .fleet import Fleet
from .llm import DEFAULT_LLM, scoped
from .promote import Options, Outcome
from .release import UNRELEASED
from .servers import controls_of, locked
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
        for server in servers.there:
            live[server.name] = _roll_back(server, llm, options, told, server.name in servers.settled_back)
        missing = servers.missing
    return Outcome("rolled back", "asked for", live, missing)


def _roll_back(server: Control, llm: str, options: Options, tell: Tell, is_back: bool) -> str:
    served = server.status()["llms"].get(llm)
    if served is None:
        raise OperatorError(f"{server.name} has no LLM {llm!r}")
    live, good = served["live"], served["good"]
    if is_back:
        tell(Event("done", "rollback", f"{live or UNRELEASED} is live: what was under way went back", server.name))
        return str(live or UNRELEASED)
    earlier = good[: good.index(live)] if live in good else good
    if not earlier:
        raise OperatorError(f"{server.name}: nothing was live before {live or UNRELEASED}")
    target = server.document(earlier[-1])
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
