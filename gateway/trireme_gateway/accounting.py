"""Who asks, what they may, and what it came to: everything about a request but its answer."""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .accounts import audit
from .accounts.database import Database, state_folder
from .accounts.directory import Directory
from .accounts.quota import NANO
from .errors import Forbidden, Unauthorized
from .fleet.ask import Ask
from .identity import Caller, caller_of
from .ledger.rows import Prices, Row
from .ledger.writer import Transcript, Writer
from .metrics import Metrics
from .quota.quotas import Quotas, Reservation
from .settings import Settings, SloSettings

#: How long the end of the gateway waits for what servers say about answers that nobody waits for.
_LATE_S = 6.0


class Accounting:
    """For one event loop. Use `start` and `stop`."""

    def __init__(self, settings: Settings, database: Database, metrics: Metrics) -> None:
        self._settings = settings
        self._database = database
        self._metrics = metrics
        self.directory = Directory(database)
        self._prices = Prices(settings.price)
        self._quotas = Quotas(settings, self.directory, metrics)
        folder = database.path.parent if database.path is not None else state_folder()
        self._writer = Writer(database, Path(folder), settings, metrics, self._quotas.written)
        self._settling: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Read what there is. Raises DatabaseError."""
        await self.directory.start()
        await self._writer.start()

    async def stop(self) -> None:
        """Write what is not written yet."""
        if self._settling:
            await asyncio.wait(self._settling, timeout=_LATE_S)
        await self._quotas.close()
        await self._writer.stop()
        await self.directory.stop()
        await asyncio.to_thread(self._database.close)

    async def apply(self, settings: Settings) -> None:
        """Go on with other settings."""
        self._settings = settings
        self._prices = Prices(settings.price)
        await self._quotas.apply(settings)
        self._writer.apply(settings)

    def note(self, action: str, detail: Mapping[str, Any]) -> None:
        """Record an administrator's act. Raises DatabaseError. Waits for the database."""
        with self._database.write() as connection:
            audit.note(connection, action, detail)

    @property
    def is_key_required(self) -> bool:
        """Whether nobody is answered without a key."""
        required = self._settings.keys.required
        return self.directory.is_required if required is None else required

    async def caller_of(self, headers: Mapping[bytes, bytes], client: Any) -> Caller:
        """See `identity.caller_of`. Whom it refuses is counted."""
        try:
            return await caller_of(headers, client, self.directory, self.is_key_required)
        except Unauthorized:
            self._metrics.unauthorized()
            raise

    @staticmethod
    def may_ask(caller: Caller, model: str) -> bool:
        """Whether a model is one of those that a caller's key is for."""
        return caller.key is None or not caller.key.models or model in caller.key.models

    def check_model(self, caller: Caller, model: str) -> None:
        """Raises Forbidden for one that it is not for."""
        if not self.may_ask(caller, model):
            assert caller.key is not None
            names = ", ".join(sorted(caller.key.models))
            raise Forbidden(f"the key {caller.key.id} is not for the model {model!r}; it is for {names}")

    async def reserve(self, caller: Caller, model: str, asks: Iterable[Ask]) -> Reservation | None:
        """Take what a request may need. None where nothing is limited.

        Raises Forbidden, QuotaExceeded, or Unavailable where it could not be accounted for.
        """
        self.check_model(caller, model)
        if self._settings.ledger.enabled:
            self._writer.check()
        if caller.key is None:
            return None
        costs = [ask.cost for ask in asks]
        tokens, prompts = sum(cost.tokens for cost in costs), sum(cost.prompt_tokens for cost in costs)
        cost_nano = self._prices.cost_nano(model, prompts, tokens - prompts, 0)
        return await self._quotas.reserve(caller.key, tokens, cost_nano)

    @property
    def slo(self) -> SloSettings:
        """What requests are promised."""
        return self._settings.slo

    def cost_nano(self, model: str, computed_in: int, computed_out: int, cached: int) -> int:
        """See `Prices`."""
        return self._prices.cost_nano(model, computed_in, computed_out, cached)

    def person_of(self, user: str | None) -> str | None:
        """What stands for a user in the ledger."""
        return None if not user else self._writer.person_of(user)

    def settle(self, reservation: Reservation | None, row: Row) -> None:
        """A request has ended, and this is all about it."""
        # Without keys a tenant is a digest of whatever was sent as one: no name for a series.
        self._metrics.of_tenant(
            row.tenant if row.key_id else "",
            row.model,
            row.status,
            (row.tokens_in, row.tokens_out, row.tokens_cached),
            row.cost_nano / NANO,
            self._settings.currency,
        )
        if reservation is not None:
            computed = max(0, row.tokens_in + row.tokens_out - row.tokens_cached)
            self._quotas.settle(reservation, computed, row.cost_nano)
        if self._settings.ledger.enabled:
            self._writer.note(row)

    def keep(self, row: Row, prompt: str, answer: str) -> None:
        """Keep what was said, where that is asked for."""
        if self._settings.transcripts.enabled:
            self._writer.keep(Transcript(row.time_ms, row.request_id, row.tenant, row.person, prompt, answer))

    @property
    def keeps_transcripts(self) -> bool:
        """Whether what is said is kept."""
        return self._settings.transcripts.enabled

    def later(self, ending: Any) -> None:
        """Settle a request when what it took is known."""
        task = asyncio.create_task(ending)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    def gauges(self) -> None:
        """Bring the metrics up to date."""
        with contextlib.suppress(RuntimeError):
            age_s = asyncio.get_running_loop().time() - self.directory.read_at
            self._metrics.accounts(age_s, self._writer.waiting)
