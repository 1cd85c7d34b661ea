"""Looks at a server, again and again: whether it is ready, and what it serves."""

import asyncio
import contextlib
from collections.abc import Callable

from trireme_client import DeadlineExceeded, TriremeError

from ..log import log
from ..settings import HealthSettings
from .server import Server

#: At every how many looks all of what a server serves is read again, and not only whether another release is live.
_WHOLE_EVERY = 8

#: A server that answers neither its health port nor gRPC for so many looks is lost, with all that is under way on it.
_LOST_AFTER = 2


class Watch:
    """The looks at one server. changed: called when it may be asked now, or no more, or serves something else."""

    def __init__(
        self,
        server: Server,
        llms: Callable[[], tuple[tuple[str, tuple[str, ...]], ...]],
        settings: HealthSettings,
        changed: Callable[[], None],
    ) -> None:
        self._server = server
        self._llms = llms
        self.settings = settings
        self._changed = changed
        self._steps: dict[str, tuple[str, ...]] = {}
        self._known: tuple[tuple[str, tuple[str, ...]], ...] = ()
        self._looks = 0
        self._whole_next = True
        #: How many looks have begun, and the number of the last one that has ended.
        self._begun = self._ended = 0
        self._stopping = False
        self._silent = 0
        self._soon = asyncio.Event()
        self._looked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look from now on."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Look no more."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def look_soon(self) -> None:
        """Look at once: a request was not answered as expected."""
        self._whole_next = True
        self._soon.set()

    async def looked(self, timeout_s: float) -> None:
        """Wait until a look has ended that began from now on, at most for so long."""
        wanted = self._begun + 1
        self.look_soon()

        async def wait() -> None:
            while self._ended < wanted:
                self._looked.clear()
                await self._looked.wait()

        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(wait(), timeout_s)

    async def _run(self) -> None:
        while not self._stopping:
            self._soon.clear()
            self._begun += 1
            number = self._begun
            try:
                await self._look()
            except Exception:
                # Whatever it is, the server is looked at again.
                log.exception("unexpected error in a look", server=self._server.name)
                self._server.ready = False
            self._ended = number
            self._looked.set()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._soon.wait(), self.settings.interval_s)

    async def _look(self) -> None:
        server = self._server
        before = (server.ready, dict(server.serving))
        try:
            ready = await self._is_ready()
            if ready:
                await self._read_serving()
            server.ready = ready and bool(server.serving)
            self._silent = 0
        except (TriremeError, OSError, asyncio.TimeoutError) as error:
            self._silent += 1
            # On a busy machine an answer may be late once.
            is_late = isinstance(error, asyncio.TimeoutError | DeadlineExceeded)
            if not is_late or self._silent >= _LOST_AFTER:
                server.ready = False
                self._steps.clear()
            if self._silent >= _LOST_AFTER and not await server.link.is_live(self.settings.timeout_s):
                # One that is ending has no health port any more, and still answers what it was asked.
                server.lost()
        if before != (server.ready, server.serving):
            self._changed()

    async def _is_ready(self) -> bool:
        """Raises OSError, TimeoutError or TriremeError if nobody answers."""
        timeout_s = self.settings.timeout_s
        if self._server.health is None:
            llms = [llm for llm, _ in self._llms()]
            return any([await self._server.link.is_ready(llm, timeout_s) for llm in llms])
        return await asyncio.wait_for(_is_200(self._server.health, "/v2/health/ready"), timeout_s)

    async def _read_serving(self) -> None:
        """Raises TriremeError if the server does not answer."""
        server = self._server
        wanted = self._llms()
        whole = wanted != self._known or self._whole_next or self._looks % _WHOLE_EVERY == 0
        self._whole_next = False
        self._looks += 1
        self._known = wanted
        for llm, releases in wanted:
            try:
                await self._read(llm, releases, whole)
            except DeadlineExceeded:
                raise
            except TriremeError:
                try:
                    # Another release that goes live in the middle of a look takes away what is asked about.
                    await self._read(llm, releases, whole=True)
                except DeadlineExceeded:
                    raise
                except TriremeError:
                    server.serving.pop(llm, None)
                    self._steps.pop(llm, None)
        for llm in server.serving.keys() - {llm for llm, _ in wanted}:
            del server.serving[llm]

    async def _read(self, llm: str, releases: tuple[str, ...], whole: bool) -> None:
        """What is served of an LLM; whole: also where the same release is live. Raises TriremeError."""
        server, timeout_s = self._server, self.settings.timeout_s
        # Before the rest is read: what is read then is at least as new.
        steps = await server.link.steps(llm, timeout_s)
        if not whole and steps == self._steps.get(llm) and llm in server.serving:
            return
        server.now_serves(llm, await server.link.serving(llm, releases, timeout_s))
        self._steps[llm] = steps


async def _is_200(address: str, path: str) -> bool:
    """Whether a GET is answered with 200. Raises OSError if nobody answers."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        words = (await reader.readline()).split()
        if len(words) < 2:
            raise ConnectionError(f"{address} closed the connection")
        return words[1] == b"200"
    finally:
        writer.close()
