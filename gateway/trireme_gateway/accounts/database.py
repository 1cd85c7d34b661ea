"""The gateway's database: SQLite in a file, or PostgreSQL.

It holds keys and tenants, the record of administrators' acts, the ledger and, where that is asked for, transcripts.
Times are in ms since 1970 (UTC), amounts of money in 1e-9 of the currency's unit.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    insert,
    make_url,
    select,
    update,
)
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

from trireme_runtime.checkout import checkout_root

from ..errors import DatabaseError, SettingError
from .quota import QUOTA_NAMES

#: Names the database where no setting does.
VARIABLE = "TRIREME_DATABASE"

#: Of the tables below; a database with another one is not touched.
_SCHEMA = 1

#: How long a writer waits for others, in s.
_BUSY_S = 10

_metadata = MetaData()
_Counter = BigInteger().with_variant(Integer(), "sqlite")

#: Facts about the database itself. revision grows with every change of keys and tenants.
facts = Table("facts", _metadata, Column("name", String(32), primary_key=True), Column("value", Text, nullable=False))


def _limits() -> list[Column[Any]]:
    """Of a key or a tenant; null: what the settings say."""
    return [Column(name, BigInteger) for name in QUOTA_NAMES]


keys = Table(
    "keys",
    _metadata,
    Column("id", String(16), primary_key=True),
    Column("digest", String(256), nullable=False),
    Column("tenant", String(128), nullable=False),
    Column("name", String(128), nullable=False),
    Column("models", Text, nullable=False),
    Column("may_read_metrics", Boolean, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger),
    Column("revoked_ms", BigInteger),
    *_limits(),
)

tenants = Table("tenants", _metadata, Column("name", String(128), primary_key=True), *_limits())

audit = Table(
    "audit",
    _metadata,
    Column("number", _Counter, primary_key=True, autoincrement=False),
    Column("time_ms", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", String(64), nullable=False),
    Column("detail", Text, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
)

#: One row for each request. writer and number name it: what is written twice is there once.
ledger = Table(
    "ledger",
    _metadata,
    Column("id", _Counter, primary_key=True),
    Column("writer", String(32), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("time_ms", BigInteger, nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("endpoint", String(32), nullable=False),
    Column("status", Integer, nullable=False),
    Column("tenant", String(128), nullable=False),
    Column("key_id", String(16), nullable=False),
    Column("person", String(64)),
    Column("model", String(256), nullable=False),
    Column("release", String(128), nullable=False),
    Column("version", String(128), nullable=False),
    Column("server", String(128), nullable=False),
    Column("cache", String(16), nullable=False),
    Column("tokens_in", BigInteger, nullable=False),
    Column("tokens_out", BigInteger, nullable=False),
    Column("tokens_cached", BigInteger, nullable=False),
    Column("queue_ms", Float, nullable=False),
    Column("ttft_ms", Float),
    Column("total_ms", Float, nullable=False),
    Column("finish_reason", String(16), nullable=False),
    Column("cost_nano", BigInteger, nullable=False),
    UniqueConstraint("writer", "number"),
    Index("ledger_by_time", "time_ms"),
    Index("ledger_by_person", "person"),
)

#: The processes that have written to the ledger. lost: rows that one noted and did not write before it was killed.
writers = Table(
    "writers",
    _metadata,
    Column("id", String(32), primary_key=True),
    Column("began_ms", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("lost", BigInteger, nullable=False),
    Column("last_ms", BigInteger, nullable=False),
)

#: What keys and tenants have cost in a month, as the ledger's rows say. kind: key or tenant.
spent = Table(
    "spent",
    _metadata,
    Column("month", String(7), primary_key=True),
    Column("kind", String(8), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("cost_nano", BigInteger, nullable=False),
)

#: Prompts and answers, redacted. Only where they are asked for.
transcripts = Table(
    "transcripts",
    _metadata,
    Column("id", _Counter, primary_key=True),
    Column("time_ms", BigInteger, nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("tenant", String(128), nullable=False),
    Column("person", String(64)),
    Column("prompt", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Index("transcripts_by_time", "time_ms"),
    Index("transcripts_by_person", "person"),
)


def _ddl(dialect: str, statement: str) -> Any:
    """A statement of one kind of database."""
    return DDL(statement).execute_if(dialect=dialect)  # type: ignore[no-untyped-call]


# What was written to the ledger stays as it was written.
event.listen(
    ledger,
    "after_create",
    _ddl(
        "sqlite",
        "CREATE TRIGGER ledger_is_append_only BEFORE UPDATE ON ledger "
        "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
    ),
)
for _statement in (
    "CREATE OR REPLACE FUNCTION ledger_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$",
    "CREATE TRIGGER ledger_is_append_only BEFORE UPDATE ON ledger "
    "FOR EACH ROW EXECUTE FUNCTION ledger_is_append_only()",
):
    event.listen(ledger, "after_create", _ddl("postgresql", _statement))


def state_folder() -> Path:
    """Where a gateway keeps what is its own: .trireme of the checkout, or the user's folder for such things."""
    try:
        return checkout_root() / ".trireme"
    except FileNotFoundError:
        base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
        return Path(base) / "trireme"


def default_url() -> str:
    """Of the variable TRIREME_DATABASE, or a file in the state folder."""
    return os.environ.get(VARIABLE) or f"sqlite:///{state_folder() / 'gateway.db'}"


class Database:
    """One database. Raises SettingError for a URL that is none, DatabaseError if it cannot be used.

    Threads may share it.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
        except ArgumentError:
            raise SettingError(
                "database: no URL; it looks like sqlite:////path/file or postgresql://host/name"
            ) from None
        #: Without its password, wherever that stands.
        self.name = parsed.set(query={}).render_as_string(hide_password=True)
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if not self.is_sqlite and parsed.drivername != "postgresql+psycopg":
            raise SettingError(f"database: {parsed.drivername!r}; sqlite and postgresql are possible")
        self.path: Path | None = None
        if self.is_sqlite:
            if not parsed.database or parsed.database == ":memory:":
                raise SettingError("database: SQLite needs a file, such as sqlite:////path/file")
            self.path = Path(parsed.database)
        self._file: tuple[int, int] | None = None
        self._engine = self._connect(parsed)

    def _connect(self, url: Any) -> Engine:
        if not self.is_sqlite:
            options = {
                "connect_timeout": 5,
                "tcp_user_timeout": 1000 * _BUSY_S,
                "options": f"-c statement_timeout={1000 * _BUSY_S}",
            }
            return create_engine(url, pool_size=2, max_overflow=4, pool_pre_ping=True, connect_args=options)
        engine = create_engine(url, connect_args={"timeout": _BUSY_S})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    def open(self) -> "Database":
        """Make what is missing. Raises DatabaseError."""
        if self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                if not self.path.exists():
                    # Digests and who asked when are nobody else's business.
                    os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600))
                self._file = _file_of(self.path)
            except OSError as error:
                raise DatabaseError(f"{self.path}: {error.strerror}") from None
        with self.write() as connection:
            if not self.is_sqlite:
                # Gateways that start together would both make the tables.
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7812355201)")
            _metadata.create_all(connection)
            self._check_schema(connection)
        return self

    def _check_schema(self, connection: Connection) -> None:
        found = fact(connection, "schema")
        if found is None:
            for name, value in (("schema", str(_SCHEMA)), ("revision", "0"), ("salt", secrets.token_hex(32))):
                connection.execute(insert(facts).values(name=name, value=value))
        elif found != str(_SCHEMA):
            raise DatabaseError(f"{self.name} has tables of form {found}; this version of Trireme has {_SCHEMA}")

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes. Raises DatabaseError."""
        with self._transaction({"writes": True}) as connection:
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that reads. Raises DatabaseError."""
        with self._transaction({}) as connection:
            yield connection

    @contextlib.contextmanager
    def _transaction(self, options: dict[str, Any]) -> Iterator[Connection]:
        if self.path is not None and _file_of(self.path) != self._file:
            # What is open still is nobody else's any more.
            raise DatabaseError(f"{self.path} was removed or replaced; what has it open must be started again")
        try:
            with self._engine.connect() as connection:
                connection.execution_options(**options)
                with connection.begin():
                    yield connection
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            raise DatabaseError(f"{self.name}: {_reason(error)}") from error

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def _file_of(path: Path) -> tuple[int, int] | None:
    """Which file a path leads to; None if to none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # Transactions are begun below, and not by the driver when it thinks that one is needed.
    connection.isolation_level = None
    # Readers do not wait for a writer. What was committed survives the process; the last moments before a power cut
    # may be missing, and never half of a transaction.
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _begin_sqlite(connection: Connection) -> None:
    # A reader that turns to a writer could not wait for another one.
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _reason(error: SQLAlchemyError) -> str:
    text = str(getattr(error, "orig", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def fact(connection: Connection, name: str) -> str | None:
    """A fact about the database."""
    return connection.execute(select(facts.c.value).where(facts.c.name == name)).scalar()


def revision(connection: Connection) -> int:
    """Of keys and tenants."""
    return int(fact(connection, "revision") or 0)


def changed(connection: Connection) -> None:
    """Have all gateways read keys and tenants again."""
    current = connection.execute(select(facts.c.value).where(facts.c.name == "revision").with_for_update()).scalar_one()
    connection.execute(update(facts).where(facts.c.name == "revision").values(value=str(int(current) + 1)))
