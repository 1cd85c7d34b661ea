"""Service level objectives: how fast a request has to be to count as good."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .errors import SettingError
from .quantities import positive_s
from .record import Record

#: What an objective can be set for: how long it took a request, in s.
_VALUES_S: Mapping[str, Callable[[Record], float | None]] = {
    "ttft": lambda record: record.ttft_s,
    "tpot": lambda record: record.tpot_s,
    "itl": lambda record: max(record.gaps_s, default=None),
    "e2e": lambda record: record.e2e_s,
}
FIGURES = tuple(_VALUES_S)


@dataclass(frozen=True)
class Slo:
    """Limits in s by figure, of FIGURES; `itl` is the longest gap of a request. Empty: every success is good."""

    limits_s: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Slo":
        """`ttft=500ms,tpot=50ms`. Raises SettingError naming the part that is wrong."""
        limits: dict[str, float] = {}
        for part in (part.strip() for part in text.split(",") if part.strip()):
            figure, equals, value = part.partition("=")
            if not equals or figure.strip() not in FIGURES:
                raise SettingError(f"slo has {part!r}; allowed are {', '.join(f'{name}=500ms' for name in FIGURES)}")
            if figure.strip() in limits:
                raise SettingError(f"slo names {figure.strip()!r} twice")
            limits[figure.strip()] = positive_s(value, f"slo {figure.strip()}")
        return cls(limits)

    def is_met(self, record: Record) -> bool:
        """Whether a request succeeded within every limit; a figure that it does not have (one token: no TPOT) is met.

        Goodput counts these (Zhong et al. 2024, DistServe, arXiv:2401.09670).
        """
        return record.is_ok and all(
            (value := _VALUES_S[name](record)) is None or value <= limit for name, limit in self.limits_s.items()
        )
