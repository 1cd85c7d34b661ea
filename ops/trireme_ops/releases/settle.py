"""What was left half done by an operator or a server that died, brought to an end: one of the two releases, whole."""

from typing import Any

from .control import Control
from .events import Event, Tell
from .journal import before
from .release import UNRELEASED

#: How long requests of a release may take that is let go, in seconds.
DRAIN_S = 600.0


def settle(server: Control, found: dict[str, Any], tell: Tell, drain_timeout_s: float = DRAIN_S) -> str:
    """End a promotion that was found in a server's journal, forward if the release had proved itself, else back.

    found: see `host.Promotion`. Returns the name of the release that is live then. Raises OperatorError.
    """
    llm, release, left = found["llm"], found["release"], found["left"]
    phase, who = found["phase"], f"{found['operator']} at {found['began']}"
    died = "the server was started again since" if found["server_restarted"] else "nobody is at it any more"
    text = f"found {release} on its way since {who}, {phase} ({died})"
    tell(Event("note", "journal", text, server.name, {"found": found}))
    server.wait_until_idle()
    served = server.status()["llms"][llm]
    if served["live"] == release and phase in ("proved", "freeing"):
        if phase == "freeing" and release not in served["good"]:
            server.mark("proved")
        server.free(llm, left, drain_timeout_s)
        server.end("promoted", "finished by the next operator: it had proved itself")
        tell(Event("done", "journal", f"{release} had proved itself, and is live", server.name))
        return str(release)
    if served["live"] == release:
        go_back(server, llm, release, left)
    server.free(llm, release, drain_timeout_s)
    server.end("rolled back", f"abandoned while {phase}")
    back = str(server.status()["llms"][llm]["live"] or UNRELEASED)
    tell(Event("done", "journal", f"{release} had not proved itself; {back} is live", server.name))
    return back


def go_back(server: Control, llm: str, release: str, left: str | None) -> None:
    """Put what was live before `release` behind the public names again; load it if it is not loaded any more."""
    loaded = server.status()["llms"][llm]["loaded"]
    if left is None and None not in loaded:
        left = before(release)
    if left not in loaded:
        assert left is not None
        server.load(server.document(left), in_background=False)
    server.switch(llm, left)
