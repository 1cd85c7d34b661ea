"""Where answers are kept: in memory, in Redis, or nowhere."""

import asyncio
from typing import Protocol

from cachetools import TTLCache
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ..errors import SettingError
from ..metrics import Metrics
from ..settings import CacheSettings

_PREFIX = "trireme:answer:"

#: For how long Redis is left alone after it did not answer, in s.
_LEAVE_S = 1.0


class Store(Protocol):
    """Keeps bytes by key, for as long as the settings say; never raises for what cannot be kept or had."""

    async def get(self, key: str) -> bytes | None:
        """What is kept under a key."""

    async def put(self, key: str, value: bytes) -> None:
        """Keep it."""

    async def close(self) -> None:
        """Keep no more."""


class NoStore:
    """Keeps nothing."""

    async def get(self, key: str) -> bytes | None:
        """Nothing."""
        return None

    async def put(self, key: str, value: bytes) -> None:
        """Nothing is kept."""

    async def close(self) -> None:
        """Nothing to do."""


class MemoryStore:
    """Keeps what was used last, up to `max_bytes`."""

    def __init__(self, settings: CacheSettings) -> None:
        self._max_entry_bytes = min(settings.max_entry_bytes, settings.max_bytes)
        self._entries: TTLCache[str, bytes] = TTLCache(settings.max_bytes, settings.ttl_s, getsizeof=len)

    async def get(self, key: str) -> bytes | None:
        """See Store."""
        return self._entries.get(key)

    async def put(self, key: str, value: bytes) -> None:
        """See Store."""
        if len(value) <= self._max_entry_bytes:
            self._entries[key] = value

    async def close(self) -> None:
        """See Store."""
        self._entries.clear()


class RedisStore:
    """Keeps them in Redis, for several gateways; while it does not answer, nothing is kept."""

    def __init__(self, settings: CacheSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._left_until = 0.0
        timeout_s = settings.timeout_ms / 1000
        try:
            self._redis = Redis.from_url(
                settings.url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
            )
        except ValueError as error:
            raise SettingError(f"cache.url: {error}") from None

    async def get(self, key: str) -> bytes | None:
        """See Store."""
        if asyncio.get_running_loop().time() < self._left_until:
            return None
        try:
            value = await self._redis.get(_PREFIX + key)
            return value if isinstance(value, bytes) else None
        except (RedisError, OSError, asyncio.TimeoutError):
            self._leave()
            return None

    async def put(self, key: str, value: bytes) -> None:
        """See Store."""
        if len(value) > self._settings.max_entry_bytes or asyncio.get_running_loop().time() < self._left_until:
            return
        try:
            await self._redis.set(_PREFIX + key, value, px=max(1, int(1000 * self._settings.ttl_s)))
        except (RedisError, OSError, asyncio.TimeoutError):
            self._leave()

    def _leave(self) -> None:
        self._left_until = asyncio.get_running_loop().time() + _LEAVE_S
        self._metrics.cache_failed()

    async def close(self) -> None:
        """See Store."""
        await self._redis.aclose()


def store_of(settings: CacheSettings, metrics: Metrics) -> Store:
    """The store that the settings name. Raises SettingError for a URL that is none."""
    if settings.kind == "none":
        return NoStore()
    return MemoryStore(settings) if settings.kind == "memory" else RedisStore(settings, metrics)
