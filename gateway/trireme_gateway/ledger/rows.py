"""A row of the ledger, and what its tokens cost."""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from ..accounts.quota import NANO
from ..settings import Price


@dataclass(frozen=True)
class Row:
    """One request.

    time_ms: of its arrival. person: a digest of the field `user`. version: of the engine's
    model. tokens_in and tokens_out: as the client was told them; tokens_cached: how many of both were not
    computed for it. queue_ms: how long it waited for a server; ttft_ms: until its first pieces came. finish_reason:
    of its first answer; "error", or "left" where the client did not wait. cost_nano: in 1e-9 of the currency's unit.
    """

    time_ms: int
    request_id: str
    endpoint: str
    status: int
    tenant: str
    key_id: str
    person: str | None
    model: str
    release: str
    version: str
    server: str
    cache: str
    tokens_in: int
    tokens_out: int
    tokens_cached: int
    queue_ms: float
    ttft_ms: float | None
    total_ms: float
    finish_reason: str
    cost_nano: int

    @property
    def owners(self) -> tuple[tuple[str, str], ...]:
        """Whose budgets it counts for."""
        return (("key", self.key_id), ("tenant", self.tenant)) if self.key_id else ()


class Prices:
    """Of each model."""

    def __init__(self, prices: Iterable[Price]) -> None:
        self._prices = {price.model: price for price in prices}

    def cost_nano(self, model: str, computed_in: int, computed_out: int, cached: int) -> int:
        """Of tokens of one request; 0 for a model without a price."""
        price = self._prices.get(model)
        if price is None:
            return 0
        per_million = computed_in * price.input + computed_out * price.output + cached * price.cached
        return round(per_million * NANO / 1_000_000)


def person_of(user: str, salt: str) -> str:
    """The digest that stands for a user in the ledger: with the database's salt, so that names cannot be tried
    elsewhere."""
    return hmac.new(bytes.fromhex(salt), user.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
