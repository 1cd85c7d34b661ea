"""What waits for room on the servers, for one LLM: by priority, then fairly by caller. Knows no network.

Within a priority callers take turns by what they take, not by how much they ask for: start-time fair queueing (Goyal,
Vin, Cheng 1996), with the tokens of a request as its length.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from trireme_client import DeadlineExceeded, ResourceExhausted, TriremeError
from trireme_runtime.admission import (
    LOWEST_PRIORITY,
    NUM_PRIORITIES,
    QueueLimits,
    QueueState,
    StartRate,
    refusal_of,
)

from .ask import Ask
from .server import Server

#: How many that cannot be placed now are passed over at a time: they wait for another release than those behind them.
_PASSED_OVER = 32

#: How many more than those that wait may stand in the heap without waiting any more.
_DEAD = 32

#: Starts/s that are assumed as long as nothing is known.
_GUESS_PER_S = 32.0

#: Chooses a server for a request, with room for it, among those that are not excluded; None if there is none now.
#: Raises TriremeError if there cannot be one.
Place = Callable[[Ask, str, Collection[str]], Server | None]


@dataclass(order=True)
class _Waiting:
    order: tuple[int, float, int]
    ask: Ask = field(compare=False)
    release: str = field(compare=False)
    excluded: Collection[str] = field(compare=False)
    granted: "asyncio.Future[Server]" = field(compare=False)

    @property
    def priority(self) -> int:
        return -self.order[0]

    @property
    def is_over(self) -> bool:
        return self.granted.done()


class Queue:
    """For one event loop. What it grants is counted among the server's seats; `give_back` must follow."""

    def __init__(self, limits: QueueLimits, place: Place, now: Callable[[], float]) -> None:
        self.limits = limits
        self._place = place
        self._now = now
        self._heap: list[_Waiting] = []
        self._numbers = itertools.count()
        self._counts = [0] * NUM_PRIORITIES
        self._tokens = 0
        self._rate = StartRate(_GUESS_PER_S)
        #: Virtual time: the start tag of what was granted last; and of each caller, when what it asked for ends.
        self._virtual = 0.0
        self._finish: dict[str, float] = {}
        self._prune_at = 4 * limits.max_size
        #: Of those in the heap, how many do not wait any more.
        self._dead = 0

    def __len__(self) -> int:
        return sum(self._counts)

    async def seat(self, ask: Ask, release: str, excluded: Collection[str]) -> Server:
        """Wait for a server. Raises ResourceExhausted, DeadlineExceeded, or what `place` raises."""
        if not self._must_wait(ask.priority):
            server = self._place(ask, release, excluded)
            if server is not None:
                server.seats[ask.llm].take(ask.cost)
                return server
        waiting = self._let_in(ask, release, excluded)
        # What waits may be for another release.
        self.pump()
        timer = None
        if ask.deadline is not None:
            left_s = ask.deadline - self._now()
            timer = asyncio.get_running_loop().call_later(left_s, _too_late, waiting.granted)
        try:
            return await waiting.granted
        except asyncio.CancelledError:
            if waiting.granted.done() and not waiting.granted.cancelled() and waiting.granted.exception() is None:
                # Granted and cancelled in the same moment.
                self.give_back(ask, waiting.granted.result())
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self._out(waiting)

    def give_back(self, ask: Ask, server: Server, full_until: float = 0.0) -> None:
        """A request has ended: what waits may have its place, unless the server has said that it is full."""
        server.seats[ask.llm].give_back(ask.cost, full_until)
        self.pump()

    def pump(self) -> None:
        """Give places to those that wait, as far as there are any."""
        passed_over: list[_Waiting] = []
        while self._heap and len(passed_over) < _PASSED_OVER:
            waiting = heapq.heappop(self._heap)
            if waiting.is_over:
                self._dead -= 1
                continue
            try:
                server = self._place(waiting.ask, waiting.release, waiting.excluded)
            except TriremeError as error:
                waiting.granted.set_exception(error)
                continue
            if server is None:
                passed_over.append(waiting)
                continue
            server.seats[waiting.ask.llm].take(waiting.ask.cost)
            self._virtual = max(self._virtual, waiting.order[1])
            self._rate.started(self._now())
            waiting.granted.set_result(server)
        for waiting in passed_over:
            heapq.heappush(self._heap, waiting)

    def _must_wait(self, priority: int) -> bool:
        """Whether others with the same priority or a higher one wait."""
        return any(self._counts[priority - LOWEST_PRIORITY :])

    def _let_in(self, ask: Ask, release: str, excluded: Collection[str]) -> _Waiting:
        """Put it among those that wait. Raises ResourceExhausted if too much waits already."""
        state = QueueState(tuple(self._counts), self._tokens, self._rate.per_second(self._now()))
        refusal = refusal_of(self._limits_for(ask), state, ask.priority, ask.cost.tokens)
        if refusal is not None:
            raise ResourceExhausted(refusal.message, refusal.retry_after_ms)
        if len(self) >= self.limits.max_size:
            self._turn_away_lowest()
        if not len(self):
            self._rate.wait_begins(self._now())
        start = max(self._virtual, self._finish.get(ask.caller, 0.0))
        self._finish[ask.caller] = start + ask.cost.tokens
        if len(self._finish) > self._prune_at:
            self._finish = {caller: end for caller, end in self._finish.items() if end > self._virtual}
            self._prune_at = max(4 * self.limits.max_size, 2 * len(self._finish))
        future: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
        waiting = _Waiting((-ask.priority, start, next(self._numbers)), ask, release, excluded, future)
        heapq.heappush(self._heap, waiting)
        self._counts[ask.priority - LOWEST_PRIORITY] += 1
        self._tokens += ask.cost.tokens
        return waiting

    def _limits_for(self, ask: Ask) -> QueueLimits:
        """Who would not be served before the deadline need not wait for it."""
        if ask.deadline is None:
            return self.limits
        left_ms = max(0, int(1000 * (ask.deadline - self._now())))
        return QueueLimits(self.limits.max_size, self.limits.max_tokens, min(left_ms, self.limits.max_delay_ms))

    def _turn_away_lowest(self) -> None:
        """Make room: the last of those with the lowest priority has to go."""
        lowest = max((waiting for waiting in self._heap if not waiting.is_over), default=None)
        if lowest is not None:
            lowest.granted.set_exception(
                ResourceExhausted("the gateway is busy: requests with a higher priority came", 1000)
            )

    def _out(self, waiting: _Waiting) -> None:
        """It waits no more, be it that it was granted, refused, or given up."""
        ask = waiting.ask
        self._counts[waiting.priority - LOWEST_PRIORITY] -= 1
        self._tokens -= ask.cost.tokens
        granted = waiting.granted
        if not granted.done() or granted.cancelled() or granted.exception() is not None:
            granted.cancel()
            # It took nothing of its caller's turns, and stands in the heap still, with its prompt.
            if ask.caller in self._finish:
                self._finish[ask.caller] -= ask.cost.tokens
            self._dead += 1
        if not len(self):
            self._rate.wait_ends(self._now())
            self._heap.clear()
            self._finish.clear()
            self._virtual, self._dead = 0.0, 0
        elif self._dead > len(self) + _DEAD:
            self._heap = [one for one in self._heap if not one.is_over]
            heapq.heapify(self._heap)
            self._dead = 0


def _too_late(granted: "asyncio.Future[Server]") -> None:
    if not granted.done():
        granted.set_exception(DeadlineExceeded("the deadline passed while the request waited for a server"))
