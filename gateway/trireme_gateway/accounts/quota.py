"""What keys and tenants may have."""

from dataclasses import asdict, dataclass

#: Of a budget's unit.
NANO = 1_000_000_000


@dataclass(frozen=True)
class Quota:
    """What a key or a tenant may have; None: no limit is named here.

    tokens_per_minute: of prompts and answers. max_concurrent: answers under way at once, streamed or not.
    monthly_budget_nano: in 1e-9 of the currency's unit, for a month of UTC.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent: int | None = None
    monthly_budget_nano: int | None = None

    def over(self, default: "Quota") -> "Quota":
        """This, with what is not named here from `default`."""
        own = asdict(self)
        return Quota(**{name: own[name] if own[name] is not None else value for name, value in asdict(default).items()})


QUOTA_NAMES = tuple(Quota.__dataclass_fields__)
