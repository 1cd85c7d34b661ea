"""Removing what is kept of a person."""

from sqlalchemy import delete

from ..accounts import audit
from ..accounts.database import Database, fact, ledger, transcripts
from .rows import person_of


def forget(database: Database, user: str) -> tuple[int, int]:
    """Remove the rows and transcripts of those requests whose field `user` was this; how many. Raises DatabaseError.

    The record of administrators' acts gets the person's digest, which says nothing of the name.
    """
    with database.write() as connection:
        person = person_of(user, fact(connection, "salt") or "")
        rows = connection.execute(delete(ledger).where(ledger.c.person == person)).rowcount
        texts = connection.execute(delete(transcripts).where(transcripts.c.person == person)).rowcount
        audit.note(connection, "ledger.forget", {"person": person, "rows": rows, "transcripts": texts})
    return rows, texts
