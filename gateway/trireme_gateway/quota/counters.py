"""Counts that keys and tenants have in common with other gateways, in Redis, or in this process alone.

Windows are minutes of the clock, so that what was reserved can be given back to the minute it was taken from.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from ..errors import SettingError
from ..settings import SharedSettings

WINDOW_S = 60

#: How long a process that died keeps its places, and how often one that lives says so, in s.
_LEASE_S, _RENEW_S = 15, 5

#: Minutes whose counts are kept here: the last ones, and those that are given back to.
_WINDOWS = 8

_PREFIX = "trireme:quota"

#: KEYS: a sorted set for each place, then a number for each amount. ARGV: how many places, the member, the lease in ms,
#: how long a number is kept in s, the most of each place, then of each amount: it, and the most.
#: The number of the first key that is full, or 0, and the counts: all are taken, or none. The clock is that of Redis.
_TAKE = """
local places = tonumber(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local full = 0
for i = 1, places do
    redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now)
    if full == 0 and redis.call('ZCARD', KEYS[i]) >= tonumber(ARGV[4 + i]) then
        full = i
    end
end
local said = {0}
for i = places + 1, #KEYS do
    local at = 4 + places + 2 * (i - places) - 1
    local count = tonumber(redis.call('GET', KEYS[i]) or '0')
    said[#said + 1] = count
    if full == 0 and count + tonumber(ARGV[at]) > tonumber(ARGV[at + 1]) then
        full = i
    end
end
said[1] = full
if full > 0 then
    return said
end
for i = 1, places do
    redis.call('ZADD', KEYS[i], now + ARGV[3], ARGV[2])
    redis.call('PEXPIRE', KEYS[i], ARGV[3])
end
for i = places + 1, #KEYS do
    local at = 4 + places + 2 * (i - places) - 1
    said[1 + i - places] = redis.call('INCRBY', KEYS[i], ARGV[at])
    redis.call('EXPIRE', KEYS[i], ARGV[4])
end
return said
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


@dataclass(frozen=True)
class Amount:
    """What is added to a count, of which there may be `most` in a minute. name: of the key or tenant and the count."""

    name: str
    amount: int
    most: int


@dataclass(frozen=True)
class Place:
    """A place of `most`."""

    name: str
    most: int


@dataclass(frozen=True)
class Taken:
    """What came of taking. full: the first of the places and then the amounts that had no room, None if all had.
    counts: of the amounts, with them if they were taken."""

    full: int | None
    counts: tuple[int, ...]


class Lost(Exception):
    """What is shared cannot be reached."""


class Counters(Protocol):
    """Counts of minutes, and places."""

    async def take(self, window: int, member: str, places: Sequence[Place], amounts: Sequence[Amount]) -> Taken:
        """Take all of it, or nothing. Raises Lost."""

    async def give_back(self, window: int, member: str, places: Sequence[str], amounts: Sequence[Amount]) -> None:
        """Leave the places, and change the counts whatever their most is. Raises Lost."""

    async def close(self) -> None:
        """End it."""


class LocalCounters:
    """In this process."""

    def __init__(self) -> None:
        self._windows: dict[int, Counter[str]] = {}
        self._places: Counter[str] = Counter()

    def _window(self, window: int) -> Counter[str]:
        found = self._windows.setdefault(window, Counter())
        while len(self._windows) > _WINDOWS:
            del self._windows[next(iter(self._windows))]
        return found

    async def take(self, window: int, member: str, places: Sequence[Place], amounts: Sequence[Amount]) -> Taken:
        """See Counters."""
        counts = self._window(window)
        is_full = [self._places[place.name] >= place.most for place in places]
        is_full += [counts[one.name] + one.amount > one.most for one in amounts]
        if any(is_full):
            return Taken(is_full.index(True), tuple(counts[one.name] for one in amounts))
        self._places.update(place.name for place in places)
        counts.update({one.name: one.amount for one in amounts})
        return Taken(None, tuple(counts[one.name] for one in amounts))

    async def give_back(self, window: int, member: str, places: Sequence[str], amounts: Sequence[Amount]) -> None:
        """See Counters."""
        self._places.subtract(places)
        for name in places:
            if not self._places[name]:
                del self._places[name]
        if window in self._windows:
            self._windows[window].update({one.name: one.amount for one in amounts})

    async def close(self) -> None:
        """See Counters."""


class RedisCounters:
    """In Redis, with one message for each of these. Places are leases: those of a gateway that died are free again
    after 15 s."""

    def __init__(self, settings: SharedSettings) -> None:
        timeout_s = settings.timeout_ms / 1000
        try:
            self._pool = ConnectionPool.from_url(
                settings.url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
            )
        except ValueError as error:
            raise SettingError(f"quota.shared.url: {error}") from None
        self._redis: Any = Redis(connection_pool=self._pool)
        self._take: Any = self._redis.register_script(_TAKE)
        self._renew: Any = self._redis.register_script(_RENEW)
        self._held: set[tuple[str, str]] = set()
        self._renewing: asyncio.Task[None] | None = None

    @staticmethod
    def _count(name: str, window: int) -> str:
        return f"{_PREFIX}:{name}:{window}"

    @staticmethod
    def _place(name: str) -> str:
        return f"{_PREFIX}:{name}"

    async def take(self, window: int, member: str, places: Sequence[Place], amounts: Sequence[Amount]) -> Taken:
        """See Counters."""
        held = [self._place(place.name) for place in places]
        keys = held + [self._count(one.name, window) for one in amounts]
        limits = [place.most for place in places]
        limits += [number for one in amounts for number in (one.amount, one.most)]
        full, *counts = await self._run(self._take, keys, [len(held), member, 1000 * _LEASE_S, 2 * WINDOW_S, *limits])
        if not full and held:
            self._held |= {(key, member) for key in held}
            if self._renewing is None:
                self._renewing = asyncio.create_task(self._keep())
        return Taken(int(full) - 1 if full else None, tuple(map(int, counts)))

    async def give_back(self, window: int, member: str, places: Sequence[str], amounts: Sequence[Amount]) -> None:
        """See Counters."""
        keys = [self._place(name) for name in places]
        # Not renewed any more, whatever comes: what cannot be given back now ends by itself.
        self._held -= {(key, member) for key in keys}
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.zrem(key, member)
                for one in amounts:
                    pipeline.incrby(self._count(one.name, window), one.amount)
                    pipeline.expire(self._count(one.name, window), 2 * WINDOW_S)
                await pipeline.execute()
        except (RedisError, OSError, asyncio.TimeoutError) as error:
            raise Lost(str(error)) from error

    async def _run(self, script: Any, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """A script, of which Redis is told once. Raises Lost."""
        command = ("EVALSHA", script.sha, len(keys), *keys, *arguments)
        try:
            try:
                return await self._redis.execute_command(*command)
            except NoScriptError:
                await self._redis.script_load(script.script)
                return await self._redis.execute_command(*command)
        except (RedisError, OSError, asyncio.TimeoutError) as error:
            raise Lost(str(error)) from error

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_S)
            held = list(self._held)
            if not held:
                continue
            keys, members = zip(*held, strict=True)
            with contextlib.suppress(Lost):
                await self._run(self._renew, keys, [1000 * _LEASE_S, *members])

    async def close(self) -> None:
        """See Counters."""
        if self._renewing is not None:
            self._renewing.cancel()
        await self._redis.aclose()
        await self._pool.disconnect()
