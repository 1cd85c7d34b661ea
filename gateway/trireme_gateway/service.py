"""Answers: from the cache, together with one that is under way, or from a server."""

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from trireme_client import DeadlineExceeded, Delta, ResourceExhausted, Unavailable

from .accounting import Accounting
from .accounts.database import Database
from .cache.flight import Flight
from .cache.key import is_exact, key_of
from .cache.recorded import is_whole, pack, unpack
from .cache.store import Store, store_of
from .errors import ReleaseGone
from .fleet.ask import Ask
from .fleet.fleet import Fleet
from .fleet.serving import Release
from .fleet.shadow import Shadows
from .metrics import Metrics
from .settings import Settings
from .traces import Traces, traces_of

#: How often another release is chosen, where the one that was to answer is served no more.
_CHOICES = 4


class _Pieces(Protocol):
    """An answer as it comes."""

    def __aiter__(self) -> AsyncIterator[list[Delta]]:
        """Its pieces."""

    def close(self) -> None:
        """No more of it is wanted."""


class _Stored:
    def __init__(self, batches: list[list[Delta]]) -> None:
        self._batches = batches

    async def __aiter__(self) -> AsyncIterator[list[Delta]]:
        for batch in self._batches:
            yield batch

    def close(self) -> None:
        """Nothing to do."""


class Reply:
    """An answer whose first pieces are there: iterate for all of them, once; `close` ends what is left.

    cache: hit, miss, joined or bypass. server: that answers, or "" from the cache.
    """

    def __init__(self, pieces: _Pieces, release: Release, server: str, cache: str) -> None:
        self._pieces = pieces
        self.release = release
        self.server = server
        self.cache = cache

    def __aiter__(self) -> AsyncIterator[list[Delta]]:
        return self._pieces.__aiter__()

    def close(self) -> None:
        """End it."""
        self._pieces.close()


class Service:
    """For one event loop. Use `start` and `stop`."""

    def __init__(self, settings: Settings, metrics: Metrics, database: Database) -> None:
        self.settings = settings
        self.accounting = Accounting(settings, database, metrics)
        self.fleet = Fleet(settings, metrics)
        self._metrics = metrics
        self._name_models(settings)
        self._store: Store = store_of(settings.cache, metrics)
        self._flights: dict[tuple[str, bool, int], Flight] = {}
        self.shadows = Shadows(self.fleet, metrics)
        self.traces: Traces | None = traces_of(settings.traces)
        #: Held while other settings come into force.
        self.applying = asyncio.Lock()

    async def start(self) -> None:
        """Connect. Raises DatabaseError."""
        await self.accounting.start()
        await self.fleet.start()

    async def stop(self) -> None:
        """Disconnect."""
        await self.shadows.stop()
        await self.fleet.stop()
        await self._store.close()
        await self.accounting.stop()

    async def apply(self, settings: Settings) -> None:
        """Go on with other settings."""
        if settings.cache != self.settings.cache:
            before, self._store = self._store, store_of(settings.cache, self._metrics)
            await before.close()
        if settings.traces != self.settings.traces:
            traces, self.traces = self.traces, traces_of(settings.traces)
            if traces is not None:
                await asyncio.to_thread(traces.close)
        self.settings = settings
        self._name_models(settings)
        await self.accounting.apply(settings)
        await self.fleet.apply(settings)

    def _name_models(self, settings: Settings) -> None:
        for model in settings.model:
            self._metrics.serves(model.id)

    async def answer(self, ask: Ask) -> Reply:
        """Begin to answer. Raises the TriremeError that came instead."""
        for _ in range(_CHOICES):
            release = self.fleet.release_for(ask)
            try:
                return await self._answer_from(ask, release)
            except ReleaseGone as error:
                gone = error
        raise Unavailable(gone.message, gone.retry_after_ms)

    async def _answer_from(self, ask: Ask, release: Release) -> Reply:
        if self.settings.cache.kind == "none" or not is_exact(ask):
            self._metrics.cached("bypass")
            return await self._bypass(ask, release, "bypass")
        key = key_of(ask, release)
        stored = await self._store.get(key)
        if stored is not None:
            try:
                reply = Reply(_Stored(unpack(stored)), release, "", "hit")
                self._metrics.cached("hit")
                return reply
            except ValueError:
                self._metrics.cache_failed()
        if ask.deadline is not None:
            # Others must not end with its deadline, nor it wait for theirs.
            return await self._fly(ask, release, key, None)
        place = (key, ask.stream, ask.priority)
        flight = self._flights.get(place)
        if flight is None:
            return await self._fly(ask, release, key, place)
        reading = flight.join()
        self._metrics.cached("joined")
        try:
            await reading.begin()
        except (ResourceExhausted, DeadlineExceeded):
            return await self._bypass(ask, release, "miss")
        return Reply(reading, reading.release, reading.server, "joined")

    async def _bypass(self, ask: Ask, release: Release, outcome: str) -> Reply:
        answering = await self.fleet.open(ask, release)
        return Reply(answering, answering.release, answering.server, outcome)

    async def _fly(self, ask: Ask, release: Release, key: str, place: tuple[str, bool, int] | None) -> Reply:
        async def keep(flight: Flight) -> None:
            if is_whole(flight.batches, ask.cost.sequences):
                await self._store.put(key, pack(flight.batches))

        def over() -> None:
            if place is not None:
                self._flights.pop(place, None)

        self._metrics.cached("miss")
        flight = Flight(ask.meter, lambda: self.fleet.open(ask, release), keep, over)
        if place is not None:
            self._flights[place] = flight
        reading = flight.join()
        await reading.begin()
        return Reply(reading, reading.release, reading.server, "miss")
