"""What tests of keys, quotas and the ledger share: the administrators' commands, and the database behind them."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import TRIREME
from trireme_gateway.accounts import keys
from trireme_gateway.accounts.database import Database
from trireme_gateway.accounts.quota import Quota


def trireme(database: str, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """An administrator's command, such as `keys list`."""
    command = [str(TRIREME), *words, "--database", database]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


def new_key(url: str, tenant: str, quota: Quota | None = None, **fields: Any) -> str:
    """A key, as its owner gets it."""
    with opened(url) as database:
        return keys.create(database, tenant, quota=quota, **fields).text


def id_of(key: str) -> str:
    """The part that is no secret."""
    return key.split("_")[1]


def bearer(key: str) -> dict[str, str]:
    """The header that shows a key."""
    return {"authorization": f"Bearer {key}"}


def sqlite_url(folder: Path) -> str:
    """Of a database in a folder."""
    return f"sqlite:///{folder / 'gateway.db'}"


@contextmanager
def opened(url: str) -> Iterator[Database]:
    """The database itself."""
    database = Database(url).open()
    try:
        yield database
    finally:
        database.close()
