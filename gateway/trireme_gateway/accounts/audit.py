"""The record of what administrators did: each entry holds the digest of the one before, so that none can be removed,
changed or put between without a trace.

Who can write to the database can write the whole chain anew, or cut its end off together with the count; the digest of
the last entry, noted elsewhere, shows that, too (`trireme audit verify --head`).
"""

import getpass
import hashlib
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update

from ..errors import DatabaseError
from .clock import now_ms
from .database import audit, fact, facts, revision

_HEAD = "audit_head"
_BEFORE_THE_FIRST = "0" * 64


@dataclass(frozen=True)
class Entry:
    """One act. detail: JSON."""

    number: int
    time_ms: int
    actor: str
    action: str
    detail: str
    previous: str
    digest: str


class Broken(Exception):
    """A record that is not what was written."""


def actor() -> str:
    """Who runs this process: user@host, and who that was before sudo."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    before = os.environ.get("SUDO_USER")
    return f"{user}@{socket.gethostname()}" + (f" (sudo by {before})" if before else "")


def _digest(number: int, time_ms: int, who: str, action: str, detail: str, previous: str) -> str:
    text = json.dumps([number, time_ms, who, action, detail, previous], ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _head(connection: Connection) -> tuple[int, str]:
    """Number and digest of the last entry; held until the transaction's end."""
    value = connection.execute(select(facts.c.value).where(facts.c.name == _HEAD).with_for_update()).scalar()
    if value is None:
        return 0, _BEFORE_THE_FIRST
    number, _, digest = value.partition(" ")
    if not number.isdecimal():
        raise DatabaseError("the record of administrators' acts is damaged; `trireme audit verify` says where")
    return int(number), digest


def note(connection: Connection, action: str, detail: Mapping[str, Any], who: str | None = None) -> None:
    """Append an act, in the transaction that does it."""
    before, previous = _head(connection)
    text = json.dumps(detail, sort_keys=True)
    number, at_ms, by = before + 1, now_ms(), who or actor()
    digest = _digest(number, at_ms, by, action, text, previous)
    connection.execute(
        insert(audit).values(
            number=number, time_ms=at_ms, actor=by, action=action, detail=text, previous=previous, digest=digest
        )
    )
    head = f"{number} {digest}"
    if before:
        connection.execute(update(facts).where(facts.c.name == _HEAD).values(value=head))
    else:
        connection.execute(insert(facts).values(name=_HEAD, value=head))


def entries(connection: Connection) -> list[Entry]:
    """All of them, the first one first."""
    return [Entry(*row) for row in connection.execute(select(audit).order_by(audit.c.number))]


def verify(connection: Connection, known: str | None = None) -> tuple[int, str]:
    """The count of entries, and the digest of the last one. known: a digest that was the last one's once.

    Raises Broken naming the first entry that is wrong.
    """
    previous, number, has_known = _BEFORE_THE_FIRST, 0, False
    for entry in entries(connection):
        number += 1
        if entry.number != number:
            raise Broken(f"entry {number} is missing: after {number - 1} comes {entry.number}")
        if entry.previous != previous:
            raise Broken(f"entry {number} does not follow entry {number - 1}: one of them was replaced")
        expected = _digest(entry.number, entry.time_ms, entry.actor, entry.action, entry.detail, entry.previous)
        if entry.digest != expected:
            raise Broken(f"entry {number} ({entry.action}, {entry.actor}) was changed")
        previous = entry.digest
        has_known = has_known or previous == known
    head = fact(connection, _HEAD)
    if head is not None and head != f"{number} {previous}":
        raise Broken(f"the last entries are missing: {head.split()[0]} were written, {number} are there")
    if head is None and revision(connection):
        raise Broken("all entries are missing: keys were changed, and none says so")
    if known is not None and not has_known:
        raise Broken(f"no entry has the digest {known}: what came up to it was removed or changed")
    return number, previous
