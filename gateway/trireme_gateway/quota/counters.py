"""Counts that keys and tenants have in common with other gateways, in Redis, or in this process alone.

Counting is that of the library `limits`; its windows are minutes of the clock, so that what was reserved can be given
back to the minute it was taken from.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol, TypeVar, cast

from limits.aio.storage import MemoryStorage, RedisStorage
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ..errors import SettingError
from ..settings import SharedSettings

WINDOW_S = 60

#: How long a process that died keeps its places, and how often one that lives says so, in s.
_LEASE_S, _RENEW_S = 15, 5

_PREFIX = "trireme:quota"

#: KEYS: one sorted set for each limit. ARGV: the member, the lease in ms, and the limits. The number of the first one
#: that is reached, or 0; the clock is that of Redis.
_TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i, key in ipairs(KEYS) do
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    if redis.call('ZCARD', key) >= tonumber(ARGV[2 + i]) then
        return i
    end
end
for _, key in ipairs(KEYS) do
    redis.call('ZADD', key, now + ARGV[2], ARGV[1])
    redis.call('PEXPIRE', key, ARGV[2])
end
return 0
"""

#: KEYS: one sorted set for each place that is held. ARGV: the lease in ms, and the members.
_RENEW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i, key in ipairs(KEYS) do
    redis.call('ZADD', key, now + ARGV[1], ARGV[1 + i])
    redis.call('PEXPIRE', key, ARGV[1])
end
"""

_T = TypeVar("_T")

#: Names of limits of answers at once, and how many there may be.
Places = Sequence[tuple[str, int]]


class Lost(Exception):
    """What is shared cannot be reached."""


class Counters(Protocol):
    """Counts. Names are those of keys and tenants with what is counted."""

    async def add(self, name: str, window: int, amount: int) -> int:
        """Add to the count of a minute; what it is then. Raises Lost."""

    async def take(self, member: str, places: Places) -> int | None:
        """Take a place in all, or in none: the number of the first that is full. Raises Lost."""

    async def leave(self, member: str, names: Sequence[str]) -> None:
        """Give the places back. Raises Lost."""

    async def close(self) -> None:
        """End it."""


class LocalCounters:
    """In this process."""

    def __init__(self) -> None:
        self._storage = MemoryStorage()
        self._taken: Counter[str] = Counter()

    async def add(self, name: str, window: int, amount: int) -> int:
        """See Counters."""
        return await self._storage.incr(f"{name}/{window}", WINDOW_S, amount)

    async def take(self, member: str, places: Places) -> int | None:
        """See Counters."""
        for number, (name, most) in enumerate(places):
            if self._taken[name] >= most:
                return number
        for name, _ in places:
            self._taken[name] += 1
        return None

    async def leave(self, member: str, names: Sequence[str]) -> None:
        """See Counters."""
        for name in names:
            self._taken[name] -= 1
            if not self._taken[name]:
                del self._taken[name]

    async def close(self) -> None:
        """See Counters."""
        await self._storage.reset()


class RedisCounters:
    """In Redis. Places are leases: those of a gateway that died are free again after 15 s."""

    def __init__(self, settings: SharedSettings) -> None:
        timeout_s = settings.timeout_ms / 1000
        try:
            self._pool = ConnectionPool.from_url(
                settings.url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
            )
            uri = f"async+{settings.url}"
            self._storage = RedisStorage(
                uri, implementation="redispy", key_prefix=_PREFIX, connection_pool=cast(Any, self._pool)
            )
        except ValueError as error:
            raise SettingError(f"quota.shared.url: {error}") from None
        self._redis: Redis = Redis(connection_pool=cast(Any, self._pool))
        self._take: Any = self._redis.register_script(_TAKE)
        self._renew: Any = self._redis.register_script(_RENEW)
        self._held: set[tuple[str, str]] = set()
        self._renewing: asyncio.Task[None] | None = None

    async def _ask(self, asked: Awaitable[_T]) -> _T:
        try:
            return await asked
        except (RedisError, OSError, asyncio.TimeoutError) as error:
            raise Lost(str(error)) from error

    async def add(self, name: str, window: int, amount: int) -> int:
        """See Counters."""
        return int(await self._ask(self._storage.incr(f"{name}/{window}", WINDOW_S, amount)))

    async def take(self, member: str, places: Places) -> int | None:
        """See Counters."""
        keys = [f"{_PREFIX}:{name}" for name, _ in places]
        full = await self._ask(self._take(keys, [member, 1000 * _LEASE_S, *(most for _, most in places)]))
        if full:
            return int(full) - 1
        self._held |= {(key, member) for key in keys}
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._keep())
        return None

    async def leave(self, member: str, names: Sequence[str]) -> None:
        """See Counters."""
        keys = [f"{_PREFIX}:{name}" for name in names]
        # Not renewed any more, whatever comes: what cannot be given back now ends by itself.
        self._held -= {(key, member) for key in keys}
        async with self._redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.zrem(key, member)
            await self._ask(pipeline.execute())

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_S)
            held = list(self._held)
            if not held:
                continue
            try:
                arguments = [1000 * _LEASE_S, *(member for _, member in held)]
                await self._ask(self._renew([key for key, _ in held], arguments))
            except Lost:
                continue

    async def close(self) -> None:
        """See Counters."""
        if self._renewing is not None:
            self._renewing.cancel()
        await self._redis.aclose()
        await self._pool.disconnect()
