"""Keys, tenants and what they have spent, as a gateway knows them: read again and again, so that what an administrator
does is in force within a second, and no request waits for the database."""

import asyncio
import contextlib
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cachetools import TTLCache
from sqlalchemy import select

from trireme_client import ResourceExhausted

from ..errors import DatabaseError, Unauthorized
from ..log import log
from .clock import month_of
from .database import Database, revision, spent
from .keys import Key, all_keys, tenant_quotas
from .quota import Quota
from .token import NoKey, id_of, is_digest_of

#: How often it is looked whether anything changed, in s; and how long a database that fails is left alone.
_LOOK_S, _LEAVE_S = 0.25, 1.0

#: Of one key's id, how many texts may wait to be checked: 10 ms of a processor each.
_CHECKS = 4

#: Keys that were found to be forged, which need not be checked again for so long, in s.
_FORGED, _FORGED_S = 10_000, 60.0


class Directory:
    """For one event loop. Use `start` and `stop`.

    is_required: whether there is, or ever was, a key. spent_nano: of this month, by ("key", id) or ("tenant", name).
    """

    def __init__(self, database: Database, wall_s: Callable[[], float] = time.time) -> None:
        self._database = database
        self._wall_s = wall_s
        self._keys: dict[str, Key] = {}
        self._tenants: dict[str, Quota] = {}
        self._revision = -1
        self.spent_nano: dict[tuple[str, str], int] = {}
        self.month = ""
        #: When what is known now began to be read, in s of the loop's clock.
        self.read_at = 0.0
        self._is_lost = False
        #: Digests of keys that were checked -> the key's id, and of forged ones; under a secret of this process.
        self._secret = secrets.token_bytes(32)
        self._known: dict[bytes, str] = {}
        self._forged: TTLCache[bytes, bool] = TTLCache(_FORGED, _FORGED_S)
        self._checking: dict[bytes, tuple[asyncio.Task[bool], str]] = {}
        self._threads = ThreadPoolExecutor(1, "keys")
        self._task: asyncio.Task[None] | None = None

    @property
    def is_required(self) -> bool:
        """Whether there is, or was, a key."""
        return bool(self._keys)

    async def start(self) -> None:
        """Read it once, then again and again. Raises DatabaseError."""
        await self._read()
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._threads.shutdown(cancel_futures=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LEAVE_S if self._is_lost else _LOOK_S)
            try:
                await self._read()
            except DatabaseError as error:
                if not self._is_lost:
                    log.error("keys and tenants stay as they were read last: %s", error)
                self._is_lost = True
            else:
                self._is_lost = False

    async def _read(self) -> None:
        month, began = month_of(self._wall_s()), asyncio.get_running_loop().time()
        await asyncio.to_thread(self._read_now, month)
        self.read_at = began

    def _read_now(self, month: str) -> None:
        with self._database.read() as connection:
            found = revision(connection)
            rows = connection.execute(
                select(spent.c.kind, spent.c.name, spent.c.cost_nano).where(spent.c.month == month)
            ).all()
            if found != self._revision:
                keys, tenants = {key.id: key for key in all_keys(connection)}, tenant_quotas(connection)
        self.month, self.spent_nano = month, {(kind, name): int(cost) for kind, name, cost in rows}
        if found != self._revision:
            self._keys, self._tenants, self._revision = keys, tenants, found

    def tenant_quota(self, tenant: str) -> Quota:
        """What is named for a tenant."""
        return self._tenants.get(tenant, Quota())

    async def key_of(self, text: str) -> Key:
        """The key that was sent. Raises Unauthorized, or ResourceExhausted where too many are checked at once."""
        try:
            key_id = id_of(text)
        except NoKey as error:
            raise Unauthorized(str(error)) from None
        mark = hashlib.blake2b(text.encode("ascii"), key=self._secret, digest_size=32).digest()
        key = self._keys.get(key_id)
        # Found by the whole key under a secret of this process: what is compared says nothing of what is kept.
        if key is None or mark in self._forged:
            raise Unauthorized(f"there is no API key {key_id} with this secret")
        known = self._known.get(mark, "")
        if not hmac.compare_digest(known.encode(), key_id.encode()):
            await self._check(key, text, mark)
        if (state := key.state(1000 * self._wall_s())) != "active":
            raise Unauthorized(f"the API key {key_id} {'has expired' if state == 'expired' else 'was revoked'}")
        return key

    async def _check(self, key: Key, text: str, mark: bytes) -> None:
        """Whether it is the key, seen once for all requests that show it."""
        checking = self._checking.get(mark)
        if checking is None:
            if sum(other == key.id for _, other in self._checking.values()) >= _CHECKS:
                raise ResourceExhausted(f"too many keys that claim to be {key.id} come at once", 1000)
            task = asyncio.create_task(self._check_now(key, text, mark))
            checking = self._checking[mark] = (task, key.id)
        # Whoever leaves meanwhile must not end it for the others.
        if not await asyncio.shield(checking[0]):
            raise Unauthorized(f"there is no API key {key.id} with this secret")

    async def _check_now(self, key: Key, text: str, mark: bytes) -> bool:
        try:
            loop = asyncio.get_running_loop()
            is_right = await loop.run_in_executor(self._threads, is_digest_of, key.digest, text)
        finally:
            del self._checking[mark]
        if is_right:
            self._known[mark] = key.id
        else:
            self._forged[mark] = True
        return is_right
