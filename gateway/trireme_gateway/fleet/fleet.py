"""The servers together: a request goes to one, and to another one if that is lost before it has said anything."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Collection
from dataclasses import replace

from trireme_client import (
    Delta,
    Generation,
    InternalError,
    NotFound,
    ResourceExhausted,
    TriremeError,
    Unavailable,
)
from trireme_runtime.admission import QueueLimits

from ..errors import ReleaseGone, ServerLost
from ..metrics import Metrics
from ..settings import ServerAddress, Settings
from ..traces import waiting
from .ask import Ask
from .link import Call
from .policies import choice_of
from .queue import Queue
from .releases import canary_of
from .server import Server
from .serving import Release, Served
from .watch import Watch

#: How often a request is tried on another server.
_RETRIES = 1

#: How long to come back after, where no server is ready.
_COME_BACK_MS = 1000

#: How often a request waits again that a server had no room for.
_REFUSALS = 16

#: How many tokens may wait: what waits is bounded by number, and the servers by tokens.
_ANY_TOKENS = 1 << 62


class Answering:
    """An answer that is under way on a server: iterate for its pieces, at least one; `close` ends what is left."""

    def __init__(
        self, fleet: "Fleet", ask: Ask, server: Server, served: Served, call: Call, first: list[Delta]
    ) -> None:
        self.release = served.release
        self.server = server.name
        self._fleet = fleet
        self._ask = ask
        self._server = server
        self._call = call
        self._first = first
        self._last = first[-1]
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[list[Delta]]:
        deltas = self._first
        try:
            while deltas:
                self._last = deltas[-1]
                yield deltas
                deltas = await self._call.read()
        except TriremeError as error:
            self._fleet.note_failure(self._ask, self._server, error)
            raise
        finally:
            self.close()

    def close(self) -> None:
        """End it if it is under way."""
        if not self._closed:
            self._closed = True
            self._call.close()
            self._fleet.computed(self._ask, self.release, self._last)
            self._fleet.ended(self._ask, self._server, self._call)


class Fleet:
    """For one event loop. Use `start` and `stop`."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._servers: list[Server] = []
        self._watches: dict[str, Watch] = {}
        self._choose = choice_of(settings.policy)
        self._queues: dict[str, Queue] = {}

    def now(self) -> float:
        """The loop's clock, in s."""
        return asyncio.get_running_loop().time()

    async def start(self) -> None:
        """Connect, and look at each server once."""
        for address in self._settings.server:
            self._add(address)
        for llm in self._settings.llms:
            self._queues[llm] = self._queue()
        await asyncio.gather(*(watch.looked(self._settings.health.timeout_s) for watch in self._watches.values()))

    def _add(self, address: ServerAddress) -> None:
        server = Server(address, self._settings.health, self._settings.queue.spare_sequences)
        server.link.connect()
        self._servers.append(server)
        watch = Watch(server, self._wanted, self._settings.health, self._changed)
        self._watches[server.name] = watch
        watch.start()

    def _queue(self) -> Queue:
        return Queue(self._queue_limits(), self._place, self.now)

    def _queue_limits(self) -> QueueLimits:
        return QueueLimits(self._settings.queue.max_size, _ANY_TOKENS, self._settings.queue.max_delay_ms)

    def _wanted(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The LLMs, and of each the releases to look for besides the live one."""
        shares = (*self._settings.canary, *self._settings.shadow)
        return tuple(
            (llm, tuple(dict.fromkeys(share.release for share in shares if share.llm == llm)))
            for llm in self._settings.llms
        )

    async def apply(self, settings: Settings) -> None:
        """Go on with other settings; what is under way on a server that is named no more ends there."""
        stays = {(address.name, address.grpc, address.health) for address in settings.server}
        was = {(address.name, address.grpc, address.health) for address in self._settings.server}
        self._settings = settings
        self._choose = choice_of(settings.policy)
        for llm in settings.llms:
            self._queues.setdefault(llm, self._queue())
        for queue in self._queues.values():
            queue.limits = self._queue_limits()
        for server in self._servers:
            server.apply(settings.health, settings.queue.spare_sequences)
            self._watches[server.name].settings = settings.health
        gone = {name for name, _, _ in was - stays}
        for server in [server for server in self._servers if server.name in gone]:
            self._servers.remove(server)
            self._metrics.server_gone(server.name)
            await self._watches.pop(server.name).stop()
            asyncio.get_running_loop().create_task(self._close_when_idle(server))
        for address in settings.server:
            if (address.name, address.grpc, address.health) not in was:
                self._add(address)
        await asyncio.gather(*(watch.looked(settings.health.timeout_s) for watch in self._watches.values()))
        self._changed()

    async def _close_when_idle(self, server: Server) -> None:
        while server.under_way:
            await asyncio.sleep(1)
        await server.link.close()

    async def stop(self) -> None:
        """Disconnect; what is under way is cancelled."""
        for watch in self._watches.values():
            await watch.stop()
        for server in self._servers:
            await server.link.close()

    def _changed(self) -> None:
        for server in self._servers:
            self._metrics.server_ready(server.name, server.ready)
        for queue in self._queues.values():
            queue.pump()

    @property
    def is_ready(self) -> bool:
        """Whether every LLM is served by somebody."""
        return all(self._usable(llm) for llm in self._settings.llms)

    def _usable(self, llm: str) -> list[Server]:
        """The servers that can be asked for an LLM: not those that are left out, unless that is all of them."""
        now = self.now()
        ready = [server for server in self._servers if server.ready and llm in server.serving]
        return [server for server in ready if now >= server.ejected_until] or ready

    def waiting(self) -> int:
        """How many requests wait."""
        return sum(map(len, self._queues.values()))

    def live(self, llm: str) -> list[Release]:
        """The releases that are live on the servers that can be asked, one for each server."""
        return [server.serving[llm].live.release for server in self._usable(llm)]

    def release_for(self, ask: Ask) -> Release:
        """The release that is to answer. Raises Unavailable if there is none."""
        canary = canary_of(ask, self._settings.canary)
        if canary is not None:
            for server in self._usable(ask.llm):
                served = server.serves(ask.llm, canary)
                if served is not None:
                    return served.release
        live = self.live(ask.llm)
        if not live:
            raise Unavailable(f"no server is ready for {ask.llm}", _COME_BACK_MS)
        if len(set(live)) == 1:
            return live[0]
        # On the way from one release to the next each server has its share; a session stays with one.
        counts = Counter(live)
        chance = random.Random(ask.session if ask.session is not None else ask.draw)
        return chance.choices(list(counts), list(counts.values()))[0]

    def _place(self, ask: Ask, release: str, excluded: Collection[str]) -> Server | None:
        """See `queue.Place`."""
        serving = [server for server in self._usable(ask.llm) if server.serves(ask.llm, release) is not None]
        if not serving:
            raise ReleaseGone(f"no server is ready for {ask.llm} ({release})", _COME_BACK_MS)
        now = self.now()
        others = [server for server in serving if server.name not in excluded]
        room = [server for server in others or serving if server.seats[ask.llm].has_room(ask.cost, now)]
        return self._choose(ask, room) if room else None

    async def open(self, ask: Ask, release: Release) -> Answering:
        """Begin an answer: it has its first pieces when this returns.

        Raises the TriremeError that came instead; ReleaseGone if the release is served no more.
        """
        queue = self._queues[ask.llm]
        excluded: list[str] = []
        refusals = 0
        while True:
            began = self.now()
            with waiting(ask.trace):
                server = await queue.seat(ask, release.name, excluded)
            waited_s = self.now() - began
            self._metrics.queued(waited_s)
            ask.meter.queue_s += waited_s
            call = None
            try:
                served = server.serves(ask.llm, release.name)
                if served is None or served.release != release:
                    raise ReleaseGone(f"{release.name} is served by {server.name} no more")
                trace = ask.trace.call(server.name, server.link.address) if ask.trace is not None else None
                call = server.link.start(
                    self._with_deadline(ask), served, ask.stream, self._timeout_s(ask), ask.meter, ask.request_id, trace
                )
                server.under_way.add(call)
                first = await call.read()
                if not first:
                    raise InternalError(f"{server.name} ended the answer before it began")
                server.answered()
                return Answering(self, ask, server, served, call, first)
            except TriremeError as error:
                is_full = isinstance(error, ResourceExhausted) and not ask.is_copy
                self.ended(ask, server, call, (error.retry_after_ms or _COME_BACK_MS) / 1000 if is_full else 0.0)
                self.note_failure(ask, server, error)
                if is_full and refusals < _REFUSALS:
                    # It is asked by others, too, or expects to take longer than it lets wait: the line is here.
                    refusals += 1
                    continue
                may_have_gone = isinstance(error, NotFound | Unavailable) and not isinstance(error, ServerLost)
                if may_have_gone and await self._has_gone(server, ask, release):
                    raise ReleaseGone(error.message, error.retry_after_ms) from error
                is_for_another = isinstance(error, Unavailable | InternalError | NotFound) and not ask.is_copy
                if not is_for_another or len(excluded) >= _RETRIES or not self._has_other(ask, release, server):
                    raise
                excluded.append(server.name)
                self._metrics.retried(server.name)
            except BaseException:
                if call is not None:
                    call.close()
                self.ended(ask, server, call)
                raise

    def _has_other(self, ask: Ask, release: Release, server: Server) -> bool:
        """Whether another server could answer."""
        return any(one is not server and one.serves(ask.llm, release.name) for one in self._usable(ask.llm))

    async def _has_gone(self, server: Server, ask: Ask, release: Release) -> bool:
        """Whether a server that is there does not serve a release any more; it is asked."""
        watch = self._watches.get(server.name)
        if watch is None or server not in self._servers:
            return True
        await watch.looked(self._settings.health.timeout_s)
        serving = server.serving.get(ask.llm)
        served = serving.of(release.name) if serving is not None else None
        return server.ready and (served is None or served.release != release)

    def ended(self, ask: Ask, server: Server, call: Call | None, full_for_s: float = 0.0) -> None:
        """A request has ended on a server, however; full_for_s: how long that has no room, whatever its seats say."""
        if call is not None:
            server.under_way.discard(call)
        if full_for_s:
            asyncio.get_running_loop().call_later(full_for_s, self._changed)
        self._queues[ask.llm].give_back(ask, server, self.now() + full_for_s if full_for_s else 0.0)

    def computed(self, ask: Ask, release: Release, last: Delta) -> None:
        """An answer has ended; its last piece counts its tokens, if it is the very last one."""
        if not ask.is_copy:
            self._metrics.tokens(ask.model, release.name, last.num_input_tokens, last.num_output_tokens)

    def note_failure(self, ask: Ask, server: Server, error: TriremeError) -> None:
        """A server that is lost to requests is left out for a while.

        What it refuses does not speak against it, nor does an error inside it: one request that has it each time, or
        one release on trial, would have all servers left out.
        """
        if not isinstance(error, Unavailable):
            return
        if isinstance(error, ServerLost) and not ask.is_copy and server.failed(self.now()):
            self._metrics.ejected(server.name)
            # When it may be asked again, others wait for it.
            asyncio.get_running_loop().call_later(server.ejected_until - self.now(), self._changed)
        if (watch := self._watches.get(server.name)) is not None:
            watch.look_soon()

    def _timeout_s(self, ask: Ask) -> float:
        longest = self._settings.limits.request_timeout_s
        return longest if ask.deadline is None else max(0.001, min(longest, ask.deadline - self.now()))

    def _with_deadline(self, ask: Ask) -> Generation:
        if ask.deadline is None:
            return ask.generation
        left_ms = max(1, round(1000 * (ask.deadline - self.now())))
        return replace(ask.generation, deadline_ms=left_ms)
