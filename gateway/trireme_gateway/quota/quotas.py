"""What a request takes of its key's and its tenant's quotas: reserved before it is answered, corrected afterwards."""

import asyncio
import contextlib
import math
import time
import uuid
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from trireme_client import TriremeError, Unavailable

from ..accounts.clock import month_bounds_s, month_of
from ..accounts.directory import Directory
from ..accounts.keys import Key
from ..accounts.quota import NANO, Quota
from ..errors import QuotaExceeded
from ..log import log
from ..metrics import Metrics
from ..settings import Settings, SharedSettings
from .counters import WINDOW_S, Amount, Counters, LocalCounters, Lost, Place, RedisCounters

#: How long Redis is left alone after it failed, in s.
_LEAVE_S = 1.0

_Owner = tuple[str, str]
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Limit:
    """One limit that a request meets. owner: ("key", id) or ("tenant", name). what: requests, tokens or answers."""

    owner: _Owner
    what: str
    most: int
    amount: int = 1

    @property
    def name(self) -> str:
        return f"{self.owner[0]}:{self.owner[1]}:{self.what}"


@dataclass(frozen=True)
class Reservation:
    """What a request has taken. limits: headers that say what is left."""

    owners: tuple[_Owner, ...]
    counters: Counters
    window: int
    rates: tuple[_Limit, ...]
    places: tuple[_Limit, ...]
    member: str
    cost_nano: int
    limits: tuple[tuple[bytes, bytes], ...]


class Quotas:
    """For one event loop. wall_s: the clock whose minutes and months are counted."""

    def __init__(
        self, settings: Settings, directory: Directory, metrics: Metrics, wall_s: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings.quota
        self._currency = settings.currency
        self._directory = directory
        self._metrics = metrics
        self._wall_s = wall_s
        self._local = LocalCounters()
        self._shared = _shared_of(self._settings.shared)
        self._left_until = 0.0
        #: What answers that are under way may cost, and what those have cost that the directory cannot know of yet.
        self._under_way: Counter[_Owner] = Counter()
        self._unseen: Counter[_Owner] = Counter()
        self._written: deque[tuple[float, Mapping[_Owner, int]]] = deque()
        self._month = month_of(wall_s())
        self._settling: set[asyncio.Task[None]] = set()

    async def apply(self, settings: Settings) -> None:
        """Go on with other settings."""
        if settings.quota.shared != self._settings.shared:
            before, self._shared = self._shared, _shared_of(settings.quota.shared)
            if before is not None:
                await before.close()
        self._settings, self._currency = settings.quota, settings.currency

    async def settled(self) -> None:
        """Until what is being given back is given back."""
        await asyncio.gather(*self._settling, return_exceptions=True)

    async def close(self) -> None:
        """End it, when what is being given back is given back."""
        await self.settled()
        await self._local.close()
        if self._shared is not None:
            await self._shared.close()

    def _quotas(self, key: Key) -> list[tuple[_Owner, Quota]]:
        return [
            (("key", key.id), key.quota.over(self._settings.key.quota)),
            (("tenant", key.tenant), self._directory.tenant_quota(key.tenant).over(self._settings.tenant.quota)),
        ]

    async def reserve(self, key: Key, tokens: int, cost_nano: int) -> Reservation:
        """Take what a request may need. Raises QuotaExceeded naming the limit, or Unavailable without Redis."""
        quotas = self._quotas(key)
        owners = tuple(owner for owner, _ in quotas)
        self._check_budgets(quotas, cost_nano)
        rates = tuple(
            _Limit(owner, what, most, amount)
            for owner, quota in quotas
            for what, most, amount in (
                ("requests", quota.requests_per_minute, 1),
                ("tokens", quota.tokens_per_minute, tokens),
            )
            if most is not None
        )
        places = tuple(
            _Limit(owner, "answers", quota.max_concurrent)
            for owner, quota in quotas
            if quota.max_concurrent is not None
        )
        for rate in rates:
            if rate.amount > rate.most:
                raise QuotaExceeded(
                    f"the request may need {rate.amount} tokens; {_named(rate.owner)} may use {rate.most} a minute. "
                    "Ask for fewer with max_tokens",
                    None,
                    may_retry=False,
                )
        # At once, before anything is waited for: others that come meanwhile see it.
        for owner in owners:
            self._under_way[owner] += cost_nano
        if not rates and not places:
            return Reservation(owners, self._local, 0, (), (), "", cost_nano, ())
        taking = asyncio.ensure_future(
            self._with_counters(lambda counters: self._take(counters, owners, rates, places, cost_nano))
        )
        try:
            # A client that leaves now must not leave behind what nobody would give back.
            return await asyncio.shield(taking)
        except BaseException as error:
            self._end_cost(owners, cost_nano)
            if isinstance(error, asyncio.CancelledError):
                self._later(self._undo(taking))
            raise

    async def _undo(self, taking: "asyncio.Future[Reservation]") -> None:
        with contextlib.suppress(TriremeError):
            await self._give_back(await taking, 0, with_requests=True)

    async def _with_counters(self, do: Callable[[Counters], Awaitable[_T]]) -> _T:
        loop = asyncio.get_running_loop()
        if self._shared is not None and loop.time() >= self._left_until:
            try:
                return await do(self._shared)
            except Lost as error:
                self._left_until = loop.time() + _LEAVE_S
                self._metrics.quota_lost()
                log.error("quotas: Redis does not answer", error=str(error), then=self._settings.shared.when_lost)
        if self._shared is not None and self._settings.shared.when_lost == "shut":
            raise Unavailable("quotas cannot be checked now, and nothing is answered without them", 1000)
        return await do(self._local)

    async def _take(
        self,
        counters: Counters,
        owners: tuple[_Owner, ...],
        rates: tuple[_Limit, ...],
        places: tuple[_Limit, ...],
        cost_nano: int,
    ) -> Reservation:
        now_s = self._wall_s()
        window = math.floor(now_s / WINDOW_S)
        left_s = WINDOW_S - now_s % WINDOW_S
        member = uuid.uuid4().hex
        wanted_places = [Place(limit.name, limit.most) for limit in places]
        wanted = [Amount(limit.name, limit.amount, limit.most) for limit in rates]
        taken = await counters.take(window, member, wanted_places, wanted)
        limits = _headers(rates, taken.counts, left_s)
        if taken.full is not None:
            limit = (*places, *rates)[taken.full]
            if limit.what == "answers":
                message = f"{_named(limit.owner)} may have {limit.most} answers at once, and has them"
                raise QuotaExceeded(message, 1000, "concurrency_exceeded", limits)
            left = max(0, limit.most - taken.counts[taken.full - len(places)])
            raise QuotaExceeded(
                f"{_named(limit.owner)} may have {limit.most} {limit.what} a minute, and has {left} left; this one "
                f"takes {limit.amount}",
                max(1, math.ceil(1000 * left_s)),
                "rate_limit_exceeded",
                limits,
            )
        return Reservation(owners, counters, window, rates, places, member, cost_nano, limits)

    def _check_budgets(self, quotas: Iterable[tuple[_Owner, Quota]], cost_nano: int) -> None:
        now_s = self._wall_s()
        self._forget_seen()
        if (month := month_of(now_s)) != self._month:
            # What the ledger does not hold yet of the last one is no matter of this one's budgets.
            self._month = month
            self._unseen.clear()
            self._written.clear()
        for owner, quota in quotas:
            if quota.monthly_budget_nano is None:
                continue
            is_read = self._directory.month == month
            known = self._directory.spent_nano.get(owner, 0) if is_read else 0
            spent = known + self._unseen[owner]
            if spent + self._under_way[owner] + cost_nano > quota.monthly_budget_nano:
                budget, used = quota.monthly_budget_nano / NANO, spent / NANO
                unit = self._currency
                raise QuotaExceeded(
                    f"{_named(owner)} may spend {budget:g} {unit} a month, and has spent {used:.6g}; this request may "
                    f"cost {cost_nano / NANO:.6g}",
                    round(1000 * (month_bounds_s(month)[1] - now_s)),
                    "insufficient_quota",
                    may_retry=False,
                )

    def settle(self, reservation: Reservation, tokens: int, cost_nano: int) -> None:
        """An answer has ended: it took so many tokens, and cost so much."""
        self._end_cost(reservation.owners, reservation.cost_nano)
        if cost_nano:
            for owner in reservation.owners:
                self._unseen[owner] += cost_nano
        if reservation.rates or reservation.places:
            self._later(self._give_back(reservation, tokens))

    def _end_cost(self, owners: Iterable[_Owner], cost_nano: int) -> None:
        for owner in owners:
            self._under_way[owner] -= cost_nano
            if not self._under_way[owner]:
                del self._under_way[owner]

    def written(self, costs: Mapping[_Owner, int]) -> None:
        """The ledger holds these costs now: soon the directory knows them, too."""
        self._written.append((asyncio.get_running_loop().time(), costs))
        self._forget_seen()

    def _forget_seen(self) -> None:
        while self._written and self._written[0][0] < self._directory.read_at:
            for owner, cost in self._written.popleft()[1].items():
                self._unseen[owner] -= cost
                if self._unseen[owner] <= 0:
                    del self._unseen[owner]

    def _later(self, giving_back: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(giving_back)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _give_back(self, taken: Reservation, tokens: int, with_requests: bool = False) -> None:
        changes = [
            Amount(rate.name, (tokens if rate.what == "tokens" else 0) - rate.amount, rate.most)
            for rate in taken.rates
            if rate.what == "tokens" or with_requests
        ]
        changes = [change for change in changes if change.amount]
        if changes or taken.places:
            try:
                names = [place.name for place in taken.places]
                await taken.counters.give_back(taken.window, taken.member, names, changes)
            except Lost:
                self._metrics.quota_lost()


def _shared_of(settings: SharedSettings) -> RedisCounters | None:
    return RedisCounters(settings) if settings.kind == "redis" else None


def _named(owner: _Owner) -> str:
    return f"the {owner[0]} {owner[1]}"


def _headers(rates: tuple[_Limit, ...], counts: tuple[int, ...], left_s: float) -> tuple[tuple[bytes, bytes], ...]:
    """x-ratelimit-*, of the limit that is nearest to its end: the key's or the tenant's."""
    found: list[tuple[bytes, bytes]] = []
    for what in ("requests", "tokens"):
        left = [(rate.most - count, rate.most) for rate, count in zip(rates, counts, strict=True) if rate.what == what]
        if left:
            remaining, most = min(left)
            found += [
                (b"x-ratelimit-limit-" + what.encode(), b"%d" % most),
                (b"x-ratelimit-remaining-" + what.encode(), b"%d" % max(0, remaining)),
                (b"x-ratelimit-reset-" + what.encode(), b"%.3fs" % left_s),
            ]
    return tuple(found)
