"""Writes the ledger, beside the requests: rows wait in memory, and go to the database a few times a second.

A row is written once: in one transaction with all that were noted with it and with what keys and tenants have spent,
under a number of its own, so that a transaction of which nobody knows whether it was committed can be done again.
"""

import asyncio
import contextlib
import hashlib
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from trireme_client import Unavailable

from ..accounts.clock import month_of, now_ms
from ..accounts.database import Database, fact, ledger, spent, transcripts, writers
from ..errors import DatabaseError
from ..log import log
from ..metrics import Metrics
from ..settings import Settings
from .noted import Noted, left_behind
from .redact import Redactor
from .rows import Row, person_of

#: Rows of one transaction; and how long a database that fails is left alone, in s.
_AT_ONCE, _LEAVE_S = 1000, 1.0

#: How often what is too old is looked for, in s.
_SWEEP_S = 600.0

_DAY_MS = 86_400_000

#: What is told of rows that were written: what keys and tenants have spent by them.
Written = Callable[[Mapping[tuple[str, str], int]], None]


class Transcript:
    """A prompt and its answer, as they were; they are redacted before they are written."""

    __slots__ = ("answer", "person", "prompt", "request_id", "tenant", "time_ms")

    def __init__(
        self, time_ms: int, request_id: str, tenant: str, person: str | None, prompt: str, answer: str
    ) -> None:
        self.time_ms = time_ms
        self.request_id = request_id
        self.tenant = tenant
        self.person = person
        self.prompt = prompt
        self.answer = answer


class Writer:
    """For one event loop. Use `start` and `stop`. folder: where it is noted how many rows there should be."""

    def __init__(
        self, database: Database, folder: Path, settings: Settings, metrics: Metrics, written: Written
    ) -> None:
        self._database = database
        self._folder = folder
        self._settings = settings.ledger
        self._transcript_settings = settings.transcripts
        self._redactor = Redactor(settings.transcripts.phone_region)
        self._metrics = metrics
        self._written = written
        self.id = uuid.uuid4().hex
        self._rows: deque[tuple[int, Row]] = deque()
        self._transcripts: deque[Transcript] = deque()
        self._threads = ThreadPoolExecutor(1, "ledger")
        self._is_failing = False
        self._lost = 0
        self._salt = ""
        self._swept_at = 0.0
        self._noted: Noted | None = None
        self._count = 0
        self._ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many rows are not written yet."""
        return len(self._rows)

    async def start(self) -> None:
        """Look for what others have lost, and begin. Raises DatabaseError, where requests may not go on without."""
        await self._in_thread(self._read_salt)
        try:
            self._noted = Noted(self._folder, self._ledger_id(), self.id)
            await self._in_thread(self._look_back)
        except (OSError, DatabaseError) as error:
            reason = f"{self._folder}: {error.strerror}" if isinstance(error, OSError) else str(error)
            if self._settings.when_full == "stop":
                raise DatabaseError(reason) from None
            log.error("the ledger cannot be written", error=reason, waiting=0)
        self._task = asyncio.create_task(self._run())

    def _read_salt(self) -> None:
        with self._database.read() as connection:
            self._salt = fact(connection, "salt") or ""

    def _ledger_id(self) -> str:
        """Of the database: gateways of several of them may have one folder."""
        return hashlib.sha256(self._salt.encode()).hexdigest()[:16]

    def _look_back(self) -> None:
        for writer, count, path in left_behind(self._folder, self._ledger_id()):
            with self._database.write() as connection:
                known = connection.execute(
                    select(writers.c.rows, writers.c.lost).where(writers.c.id == writer)
                ).one_or_none()
                lost = count - (known.rows if known is not None else 0)
                if lost > 0:
                    if known is None:
                        row = {"id": writer, "began_ms": now_ms(), "rows": 0, "lost": lost, "last_ms": now_ms()}
                        connection.execute(insert(writers).values(row))
                    else:
                        every = known.lost + lost
                        connection.execute(update(writers).where(writers.c.id == writer).values(lost=every))
            if lost > 0:
                self._metrics.ledger_lost(lost)
                log.error("the ledger lacks rows of a process that was killed", rows=lost, writer=writer)
            path.unlink(missing_ok=True)

    async def _in_thread(self, do: Callable[[], object]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, do)

    def apply(self, settings: Settings) -> None:
        """Go on with other settings."""
        self._settings, self._transcript_settings = settings.ledger, settings.transcripts
        self._redactor = Redactor(settings.transcripts.phone_region)

    def check(self) -> None:
        """Raises Unavailable where nothing may be answered that cannot be written."""
        if self._settings.when_full == "stop" and (self._is_failing or self.waiting >= self._settings.max_waiting):
            raise Unavailable("the ledger cannot be written, and nothing is answered without it", 1000)

    def person_of(self, user: str) -> str:
        """See `rows.person_of`."""
        return person_of(user, self._salt)

    def note(self, row: Row) -> None:
        """Have a row written soon."""
        if self.waiting >= self._settings.max_waiting and self._settings.when_full == "go_on":
            # The latest is the one to go: those that wait are in their order. Else it was let in, and is kept.
            self._lost += 1
            self._metrics.ledger_lost(1)
            return
        self._count += 1
        if self._noted is not None:
            self._noted.count_up()
        self._rows.append((self._count, row))

    def keep(self, transcript: Transcript) -> None:
        """Have a transcript written soon; as many wait as rows may."""
        if len(self._transcripts) < min(1000, self._settings.max_waiting):
            self._transcripts.append(transcript)

    async def _run(self) -> None:
        while not self._ending.is_set():
            wait_s = _LEAVE_S if self._is_failing else self._settings.flush_ms / 1000
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._ending.wait(), wait_s)
            try:
                await self._write()
            except Exception:
                # Whatever it is, what comes after it must be written.
                log.exception("unexpected error in writing the ledger")
                self._is_failing = True

    async def _write(self) -> None:
        # What comes meanwhile waits for the next time, to go together.
        left = max(len(self._rows), len(self._transcripts))
        while left > 0:
            left -= _AT_ONCE
            batch = [self._rows[number] for number in range(min(_AT_ONCE, len(self._rows)))]
            texts = [self._transcripts[number] for number in range(min(_AT_ONCE, len(self._transcripts)))]
            try:
                if batch:
                    await self._in_thread(lambda batch=batch: self._insert(batch))  # type: ignore[misc]
                    self._has_written(batch)
                if texts:
                    await self._in_thread(lambda texts=texts: self._insert_texts(texts))  # type: ignore[misc]
            except DatabaseError as error:
                if not self._is_failing:
                    log.error("the ledger cannot be written", error=str(error), waiting=self.waiting)
                self._is_failing = True
                self._metrics.ledger_failing(True)
                return
            except Exception:
                if self._rows and batch and self._rows[0] == batch[0]:
                    raise
                # Of these texts only: what comes after them must be written.
                log.exception("transcripts could not be written", transcripts=len(texts))
            for _ in texts:
                self._transcripts.popleft()
            if self._is_failing:
                log.info("the ledger can be written again", waiting=self.waiting)
            self._is_failing = False
            self._metrics.ledger_failing(False)
        if time.monotonic() - self._swept_at > _SWEEP_S:
            self._swept_at = time.monotonic()
            with contextlib.suppress(DatabaseError):
                await self._in_thread(self._sweep)

    def _has_written(self, batch: list[tuple[int, Row]]) -> None:
        for _ in batch:
            self._rows.popleft()
        self._metrics.ledger_wrote(len(batch))
        costs = _costs(row for _, row in batch)
        if costs:
            self._written(costs)

    def _insert(self, batch: list[tuple[int, Row]]) -> None:
        with self._database.write() as connection:
            self._insert_rows(connection, batch)

    def _insert_texts(self, texts: list[Transcript]) -> None:
        rows = [self._redacted(text) for text in texts]
        with self._database.write() as connection:
            connection.execute(insert(transcripts), rows)

    def _insert_rows(self, connection: Connection, batch: list[tuple[int, Row]]) -> None:
        last = batch[-1][0]
        mine = select(writers.c.rows).where(writers.c.id == self.id).with_for_update()
        done = connection.execute(mine).scalar()
        if done is None:
            done = 0
            connection.execute(insert(writers).values(id=self.id, began_ms=now_ms(), rows=0, lost=0, last_ms=now_ms()))
        new = [(number, row) for number, row in batch if number > done]
        if not new:
            # It was committed, and the answer to that was lost.
            return
        connection.execute(
            insert(ledger), [{"writer": self.id, "number": number, **asdict(row)} for number, row in new]
        )
        months: dict[str, list[Row]] = {}
        for _, row in new:
            months.setdefault(month_of(row.time_ms / 1000), []).append(row)
        for month, rows in months.items():
            for (kind, name), cost in sorted(_costs(rows).items()):
                self._add_spent(connection, month, kind, name, cost)
        connection.execute(
            update(writers).where(writers.c.id == self.id).values(rows=last, lost=self._lost, last_ms=now_ms())
        )

    def _add_spent(self, connection: Connection, month: str, kind: str, name: str, cost: int) -> None:
        dialect = sqlite if self._database.is_sqlite else postgresql
        adding = dialect.insert(spent).values(month=month, kind=kind, name=name, cost_nano=cost)
        connection.execute(
            adding.on_conflict_do_update(
                index_elements=["month", "kind", "name"], set_={"cost_nano": spent.c.cost_nano + cost}
            )
        )

    def _redacted(self, text: Transcript) -> dict[str, object]:
        return {
            "time_ms": text.time_ms,
            "request_id": text.request_id,
            "tenant": text.tenant,
            "person": text.person,
            "prompt": self._redactor.redact(_storable(text.prompt)),
            "answer": self._redactor.redact(_storable(text.answer)),
        }

    def _sweep(self) -> None:
        """Delete what is older than it may be."""
        now = now_ms()
        with self._database.write() as connection:
            oldest = now - self._transcript_settings.keep_days * _DAY_MS
            connection.execute(delete(transcripts).where(transcripts.c.time_ms < oldest))
            if self._settings.keep_days is not None:
                oldest = now - self._settings.keep_days * _DAY_MS
                connection.execute(delete(ledger).where(ledger.c.time_ms < oldest))

    async def stop(self) -> None:
        """Write what waits, and end."""
        if self._task is not None:
            self._ending.set()
            await self._task
            with contextlib.suppress(DatabaseError):
                await self._write()
            if self._rows:
                log.error("the ledger lacks rows that could not be written", rows=self.waiting)
        if self._noted is not None:
            self._noted.close(not self._rows)
        self._threads.shutdown()


def _storable(text: str) -> str:
    """Without what a database does not take: NUL, and halves of characters."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\N{REPLACEMENT CHARACTER}")


def _costs(rows: Iterable[Row]) -> dict[tuple[str, str], int]:
    costs: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if row.cost_nano:
            for owner in row.owners:
                costs[owner] += row.cost_nano
    return dict(costs)


def lost_rows(connection: Connection, since_ms: int, until_ms: int) -> int:
    """How many rows are missing of processes that wrote last in a time."""
    condition = (writers.c.last_ms >= since_ms) & (writers.c.last_ms < until_ms)
    return int(connection.execute(select(func.sum(writers.c.lost)).where(condition)).scalar() or 0)
