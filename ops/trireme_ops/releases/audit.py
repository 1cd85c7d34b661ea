"""The audit log of releases: who did what, when, from what to what, and why it ended. It is only ever appended to."""

import fcntl
import json
import os
from typing import Any

from ..layout import Layout
from .events import Event, Tell
from .release import now, operator_name


class AuditLog:
    """`.trireme/releases/audit.jsonl` of the operator's checkout: one JSON object a line, flushed to the disk."""

    def __init__(self, layout: Layout) -> None:
        self.path = layout.state / "releases" / "audit.jsonl"

    def append(self, act: str, step: str, **more: Any) -> None:
        """Write one line: at, operator, pid, act, step and what else is known of it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = {"at": now(), "operator": operator_name(), "pid": os.getpid(), "act": act, "step": step, **more}
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.write(descriptor, (json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8"))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def listening(self, act: str, tell: Tell, **more: Any) -> Tell:
        """Tell of events, and write all of them that end something; more: what else is known of the act."""

        def told(event: Event) -> None:
            tell(event)
            if event.kind != "begin":
                known = {**more, "server": event.server, "text": event.text, **event.figures}
                self.append(act, event.step, result=event.kind, **known)

        return told

    def lines(self) -> list[dict[str, Any]]:
        """All of it, oldest first; a line that a full disk cut short is left out."""
        if not self.path.exists():
            return []
        found = []
        for text in self.path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(text))
            except ValueError:
                continue
        return found
