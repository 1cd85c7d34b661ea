"""Counts that keys and tenants have in common with other gateways, in Redis, or in this process alone.

Counting is that of the library `limits`; its windows are minutes of the clock, so that what was reserved can be given
back to the minute it was taken from.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol, cast

from limits.aio.storage import MemoryStorage, RedisStorage
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

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

#: Names of limits of answers at once, and how many there may be.
Places = Sequence[tuple[str, int]]

#: A command of Redis and its arguments.
Command = tuple[Any, ...]

#: Names of counts, and what is added to them.
Amounts = Sequence[tuple[str, int]]


class Lost(Exception):
    """What is shared cannot be reached."""


class Counters(Protocol):
    """Counts. Names are those of keys and tenants with what is counted."""

    async def count(self, window: int, amounts: Amounts, member: str, places: Places) -> tuple[int | None, list[int]]:
        """Add to counts of a minute, and take a place in all of `places`, or in none.

        The number of the first place that is full, and what the counts are then. Raises Lost.
        """

    async def give_back(self, window: int, amounts: Amounts, member: str, places: Sequence[str]) -> None:
        """Add to counts of a minute, which may be less than nothing, and leave the places. Raises Lost."""

    async def close(self) -> None:
        """End it."""


class LocalCounters:
    """In this process."""

    def __init__(self) -> None:
        self._storage = MemoryStorage()
        self._taken: Counter[str] = Counter()

    async def count(self, window: int, amounts: Amounts, member: str, places: Places) -> tuple[int | None, list[int]]:
        """See Counters."""
        full = next((number for number, (name, most) in enumerate(places) if self._taken[name] >= most), None)
        if full is None:
            self._taken.update(name for name, _ in places)
        return full, [await self._add(window, *amount) for amount in amounts]

    async def _add(self, window: int, name: str, amount: int) -> int:
        return await self._storage.incr(f"{name}/{window}", WINDOW_S, amount)

    async def give_back(self, window: int, amounts: Amounts, member: str, places: Sequence[str]) -> None:
        """See Counters."""
        for name in places:
            self._taken[name] -= 1
            if not self._taken[name]:
                del self._taken[name]
        for amount in amounts:
            await self._add(window, *amount)

    async def close(self) -> None:
        """See Counters."""
        await self._storage.reset()


class RedisCounters:
    """In Redis, with one message for each of these. Places are leases: those of a gateway that died are free again
    after 15 s."""

    def __init__(self, settings: SharedSettings) -> None:
        timeout_s = settings.timeout_ms / 1000
        try:
            self._pool = ConnectionPool.from_url(
                settings.url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
            )
            storage = RedisStorage(
                f"async+{settings.url}",
                implementation="redispy",
                key_prefix=_PREFIX,
                connection_pool=cast(Any, self._pool),
            )
        except ValueError as error:
            raise SettingError(f"quota.shared.url: {error}") from None
        self._redis: Redis = Redis(connection_pool=self._pool)
        self._add: Any = self._redis.register_script(storage.bridge.SCRIPT_INCR_EXPIRE)
        self._take: Any = self._redis.register_script(_TAKE)
        self._renew: Any = self._redis.register_script(_RENEW)
        self._held: set[tuple[str, str]] = set()
        self._renewing: asyncio.Task[None] | None = None

    async def count(self, window: int, amounts: Amounts, member: str, places: Places) -> tuple[int | None, list[int]]:
        """See Counters."""
        keys = [f"{_PREFIX}:{name}" for name, _ in places]

        commands = self._adding(window, amounts)
        if keys:
            most = [most for _, most in places]
            commands.insert(0, ("EVALSHA", self._take.sha, len(keys), *keys, member, 1000 * _LEASE_S, *most))
        said = await self._ask(commands)
        full = said.pop(0) if keys else 0
        if keys and not full:
            self._held |= {(key, member) for key in keys}
            if self._renewing is None:
                self._renewing = asyncio.create_task(self._keep())
        return int(full) - 1 if full else None, [int(count) for count in said]

    def _adding(self, window: int, amounts: Amounts) -> list[Command]:
        return [
            ("EVALSHA", self._add.sha, 1, f"{_PREFIX}/{name}/{window}", WINDOW_S, amount) for name, amount in amounts
        ]

    async def give_back(self, window: int, amounts: Amounts, member: str, places: Sequence[str]) -> None:
        """See Counters."""
        keys = [f"{_PREFIX}:{name}" for name in places]
        # Not renewed any more, whatever comes: what cannot be given back now ends by itself.
        self._held -= {(key, member) for key in keys}

        await self._ask([("ZREM", key, member) for key in keys] + self._adding(window, amounts))

    async def _ask(self, commands: Sequence[Command]) -> list[Any]:
        """What Redis says to each. Raises Lost."""
        try:
            said = await self._send(commands)
            missing = [number for number, one in enumerate(said) if isinstance(one, NoScriptError)]
            if missing:
                # It is new, or its scripts were flushed; those commands did nothing.
                for script in (self._add, self._take, self._renew):
                    await self._redis.script_load(script.script)
                again = await self._send([commands[number] for number in missing])
                for number, one in zip(missing, again, strict=True):
                    said[number] = one
        except (RedisError, OSError, asyncio.TimeoutError) as error:
            raise Lost(str(error)) from error
        for one in said:
            if isinstance(one, Exception):
                raise Lost(str(one)) from one
        return said

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            return list(await pipeline.execute(raise_on_error=False))

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_S)
            held = list(self._held)
            if not held:
                continue
            keys, members = zip(*held, strict=True)
            with contextlib.suppress(Lost):
                await self._ask([("EVALSHA", self._renew.sha, len(keys), *keys, 1000 * _LEASE_S, *members)])

    async def close(self) -> None:
        """See Counters."""
        if self._renewing is not None:
            self._renewing.cancel()
        await self._redis.aclose()
        await self._pool.disconnect()
