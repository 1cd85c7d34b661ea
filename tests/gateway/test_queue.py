"""What waits for room on the servers: priority, fairness, deadlines, and what is turned away."""

import asyncio
from collections.abc import Awaitable, Callable, Collection

import pytest

from trireme_client import DeadlineExceeded, Generation, ResourceExhausted
from trireme_gateway.errors import ReleaseGone
from trireme_gateway.fleet.ask import Ask, Cost, cost_of
from trireme_gateway.fleet.queue import Queue
from trireme_gateway.fleet.server import Seats, Server
from trireme_gateway.settings import HealthSettings, ServerAddress
from trireme_runtime.admission import QueueLimits

LLM = "ensemble"
ANY_TOKENS = 1 << 40


def ask(caller: str = "a", priority: int = 0, tokens: int = 100, deadline: float | None = None, n: int = 1) -> Ask:
    generation = Generation(prompt="x", n=n)
    return Ask("id", LLM, LLM, generation, True, "", caller, None, priority, deadline, "", Cost(n, tokens))


class Line:
    """A queue in front of one server, and who was let through, in that order."""

    def __init__(self, sequences: int = 1, tokens: int = ANY_TOKENS, size: int = 100, delay_ms: int = 10**9) -> None:
        self.server = Server(ServerAddress(name="one", grpc="127.0.0.1:1"), HealthSettings(), 0)
        self.server.seats[LLM] = Seats(sequences, tokens)
        self.gone = False
        now = asyncio.get_running_loop().time
        self.queue = Queue(QueueLimits(size, ANY_TOKENS, delay_ms), self._place, now)
        self.through: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []

    def _place(self, wanted: Ask, release: str, _excluded: Collection[str]) -> Server | None:
        if self.gone or release == "gone":
            raise ReleaseGone("no more")
        if release == "elsewhere":
            return None
        return self.server if self.server.seats[LLM].has_room(wanted.cost, 1.0) else None

    async def put(self, name: str, wanted: Ask, release: str = "r1") -> "asyncio.Task[None]":
        async def wait() -> None:
            await self.queue.seat(wanted, release, ())
            self.through.append(name)

        task = asyncio.create_task(wait())
        self._tasks.append(task)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return task

    async def next(self, wanted: Ask) -> None:
        """One that was let through has ended."""
        self.queue.give_back(wanted, self.server)
        for _ in range(3):
            await asyncio.sleep(0)


Case = Callable[[], Awaitable[None]]


def run(case: Case) -> None:
    async def main() -> None:
        await case()

    asyncio.run(main())


def test_what_has_room_goes_at_once() -> None:
    async def case() -> None:
        line = Line(sequences=3)
        await line.put("a", ask())
        await line.put("b", ask(n=2))
        await line.put("c", ask())
        assert line.through == ["a", "b"]
        assert len(line.queue) == 1

    run(case)


def test_tokens_are_room_too() -> None:
    async def case() -> None:
        line = Line(sequences=10, tokens=250)
        for name in "abc":
            await line.put(name, ask(tokens=100))
        assert line.through == ["a", "b"]

    run(case)


def test_what_is_too_large_for_a_server_goes_to_an_idle_one() -> None:
    async def case() -> None:
        line = Line(sequences=2, tokens=100)
        large = ask(tokens=500, n=4)
        await line.put("large", large)
        await line.put("small", ask(tokens=10))
        assert line.through == ["large"]
        await line.next(large)
        assert line.through == ["large", "small"]

    run(case)


def test_the_highest_priority_goes_first_and_then_the_first_to_come() -> None:
    async def case() -> None:
        line = Line()
        await line.put("first", ask())
        for name, priority in (("low", -5), ("b", 0), ("high", 5), ("c", 0)):
            await line.put(name, ask(priority=priority))
        for _ in range(4):
            await line.next(ask())
        assert line.through == ["first", "high", "b", "c", "low"]

    run(case)


def test_callers_take_turns_by_what_they_take() -> None:
    async def case() -> None:
        line = Line()
        await line.put("first", ask("z"))
        for number in range(6):
            await line.put(f"many{number}", ask("many"))
        for number in range(2):
            await line.put(f"few{number}", ask("few"))
        await line.put("large0", ask("large", tokens=300))
        await line.put("large1", ask("large", tokens=300))
        for _ in range(10):
            await line.next(ask())
        order = [name.rstrip("0123456789") for name in line.through[1:]]
        # Nobody waits for all of another's, and who takes three times as much gets a third of the turns.
        assert sorted(order[:3]) == ["few", "large", "many"]
        assert order.index("large", order.index("large") + 1) >= 5
        assert line.through.index("few1") < line.through.index("many3")

    run(case)


def test_a_deadline_ends_the_wait() -> None:
    async def case() -> None:
        line = Line()
        await line.put("first", ask())
        late = await line.put("late", ask(deadline=asyncio.get_running_loop().time() + 0.05))
        with pytest.raises(DeadlineExceeded, match="waited for a server"):
            await late
        assert len(line.queue) == 0
        await line.next(ask())
        assert line.server.seats[LLM].sequences == 0

    run(case)


def test_who_would_not_be_served_before_its_deadline_need_not_wait() -> None:
    async def case() -> None:
        line = Line()
        await line.put("first", ask())
        for number in range(20):
            await line.put(f"{number}", ask())
        hopeless = await line.put("hopeless", ask(deadline=asyncio.get_running_loop().time() + 0.01))
        with pytest.raises(ResourceExhausted) as caught:
            await hopeless
        assert caught.value.retry_after_ms is not None

    run(case)


def test_too_long_a_line_turns_away_and_says_when_to_come_back() -> None:
    async def case() -> None:
        line = Line(size=3)
        for name in "abcd":
            await line.put(name, ask())
        late = await line.put("late", ask())
        with pytest.raises(ResourceExhausted, match="at most 3 may") as caught:
            await late
        assert caught.value.retry_after_ms is not None
        assert caught.value.retry_after_ms >= 50

    run(case)


def test_a_higher_priority_takes_the_place_of_the_last_with_the_lowest() -> None:
    async def case() -> None:
        line = Line(size=2)
        await line.put("first", ask())
        await line.put("low", ask(priority=-1))
        lowest = await line.put("lowest", ask(priority=-2))
        await line.put("high", ask(priority=1))
        with pytest.raises(ResourceExhausted, match="higher priority"):
            await lowest
        await line.next(ask())
        await line.next(ask())
        assert line.through == ["first", "high", "low"]

    run(case)


def test_too_long_an_expected_wait_turns_away() -> None:
    async def case() -> None:
        line = Line(delay_ms=100)
        for number in range(4):
            await line.put(f"{number}", ask())
        late = await line.put("late", ask(priority=0))
        with pytest.raises(ResourceExhausted, match="the wait would be about"):
            await asyncio.gather(late, *[await line.put(f"more{number}", ask()) for number in range(10)])

    run(case)


def test_who_leaves_gives_the_place_to_the_next() -> None:
    async def case() -> None:
        line = Line()
        await line.put("first", ask())
        leaving = await line.put("leaves", ask())
        await line.put("next", ask())
        # Granted and gone in the same moment.
        line.queue.give_back(ask(), line.server)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert line.through == ["first", "next"]
        assert line.server.seats[LLM].sequences == 1

    run(case)


def test_what_waits_for_a_release_that_is_gone_is_told() -> None:
    async def case() -> None:
        line = Line()
        await line.put("first", ask())
        waiting = await line.put("waits", ask())
        line.gone = True
        line.queue.pump()
        with pytest.raises(ReleaseGone):
            await waiting

    run(case)


def test_what_can_go_nowhere_now_does_not_hold_up_what_can() -> None:
    async def case() -> None:
        line = Line(sequences=2)
        await line.put("stuck", ask(), "elsewhere")
        await line.put("goes", ask())
        assert line.through == ["goes"]

    run(case)


def test_the_cost_of_a_generation() -> None:
    assert cost_of(Generation(prompt="x", n=3), "x" * 401, 50) == Cost(3, 101 + 150, 101)


def test_nothing_is_left_after_many() -> None:
    async def case() -> None:
        line = Line(sequences=4, size=1000)

        async def one(number: int) -> None:
            deadline = None if number % 3 else asyncio.get_running_loop().time() + 0.001 * (number % 11)
            wanted = ask(str(number % 7), number % 21 - 10, 10 + number % 50, deadline)
            try:
                server = await line.queue.seat(wanted, "r1", ())
            except (DeadlineExceeded, ResourceExhausted):
                return
            try:
                await asyncio.sleep(0.0005 * (number % 5))
            finally:
                line.queue.give_back(wanted, server)

        tasks = [asyncio.create_task(one(number)) for number in range(400)]
        for number in range(0, 400, 17):
            asyncio.get_running_loop().call_later(0.001 * (number % 23), tasks[number].cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert len(line.queue) == 0
        assert (line.server.seats[LLM].sequences, line.server.seats[LLM].tokens) == (0, 0)

    run(case)
