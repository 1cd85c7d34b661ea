"""One answer that several requests wait for: computed once, read by each at its own pace."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from trireme_client import Delta, InternalError, TriremeError, Unavailable

from ..fleet.ask import Meter
from ..fleet.fleet import Answering
from ..fleet.serving import Release
from ..log import log


def _nothing() -> None:
    """Nothing."""


class Flight:
    """An answer under way. It goes on as long as somebody reads it.

    meter: of who began it, and pays for all of it, whoever reads how much. open_answer: begins it. keep: called with it
    when it has ended well. over: called once, when nobody may join any more.
    """

    def __init__(
        self,
        meter: Meter,
        open_answer: Callable[[], Awaitable[Answering]],
        keep: Callable[["Flight"], Awaitable[None]],
        over: Callable[[], None],
    ) -> None:
        self.batches: list[list[Delta]] = []
        self.release: Release | None = None
        self.server = ""
        self._error: TriremeError | None = None
        self._is_over = False
        self._meter = meter
        meter.pend()
        self._open = open_answer
        self._keep = keep
        self._over = over
        self._news = asyncio.Event()
        self._readers = 0
        self._task = asyncio.create_task(self._run())
        # Also where it is cancelled before it has run at all.
        self._task.add_done_callback(lambda _: self._over_now())

    async def _run(self) -> None:
        try:
            answering = await self._open()
            self.release, self.server = answering.release, answering.server
            try:
                async for batch in answering:
                    self.batches.append(batch)
                    self._tell()
            finally:
                answering.close()
        except asyncio.CancelledError:
            self._error = Unavailable("the answer was given up")
            raise
        except TriremeError as error:
            self._error = error
        except Exception as error:
            log.exception("unexpected error in an answer")
            self._error = InternalError(f"unexpected {type(error).__name__} in the gateway; its log has more")
        else:
            self._over_now()
            await self._keep(self)
        finally:
            self._over_now()
            self._end()

    def _over_now(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._meter.is_told()
        self._tell()

    def _end(self) -> None:
        self._over()
        self._over = _nothing

    def _tell(self) -> None:
        self._news.set()
        self._news.clear()

    def join(self) -> "Reading":
        """Read it from its beginning."""
        self._readers += 1
        return Reading(self)

    def leave(self) -> None:
        """One reads it no more."""
        self._readers -= 1
        if not self._readers and not self._is_over:
            self._end()
            self._task.cancel()

    async def batch(self, number: int) -> list[Delta]:
        """The pieces with a number, from 0; none behind the last. Raises what came instead."""
        while True:
            if number < len(self.batches):
                return self.batches[number]
            if self._is_over:
                if self._error is not None:
                    # Each reader raises one of its own: tracebacks would pile up.
                    raise type(self._error)(self._error.message, self._error.retry_after_ms)
                return []
            await self._news.wait()


class Reading:
    """One reader of a flight: iterate for its pieces; `close` when it is not read any more."""

    def __init__(self, flight: Flight) -> None:
        self._flight = flight
        self._closed = False

    @property
    def release(self) -> Release:
        """What answers; known with the first pieces."""
        assert self._flight.release is not None
        return self._flight.release

    @property
    def server(self) -> str:
        """Who answers."""
        return self._flight.server

    async def begin(self) -> None:
        """Wait for the first pieces. Raises the TriremeError that came instead."""
        try:
            await self._flight.batch(0)
        except BaseException:
            self.close()
            raise

    async def __aiter__(self) -> AsyncIterator[list[Delta]]:
        number = 0
        try:
            while batch := await self._flight.batch(number):
                yield batch
                number += 1
        finally:
            self.close()

    def close(self) -> None:
        """Leave."""
        if not self._closed:
            self._closed = True
            self._flight.leave()
