"""What a run was: how it was set, on what it ran, and whether its figures can be believed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .busyness import MOST_LAG_S
from .slo import Slo

#: From which share of its processor core a generating process may have delayed what it measures.
MOST_CPU_SHARE = 0.9

#: For which share of the time what came may have been read later than MOST_LAG_S.
MOST_LATE_SHARE = 0.05


@dataclass(frozen=True)
class Generator:
    """One process that sent requests. cpu_share: of one core, in its busiest 5 s. lag_p99_s, lag_max_s: by how much
    a timer in it came late. sent_late_p99_s: by how much requests went out after their time. messages: that it read.
    late_share: of the time, in which what came was read later than MOST_LAG_S."""

    worker: int
    cpu_share: float
    lag_p99_s: float
    lag_max_s: float
    sent_late_p99_s: float
    messages: int
    late_share: float = 0.0

    @property
    def problem(self) -> str:
        """Why what it measured cannot be believed; empty if it can."""
        if self.cpu_share > MOST_CPU_SHARE:
            return (
                f"the load generator was the bottleneck: process {self.worker} used {100 * self.cpu_share:.0f} % of a "
                f"core (limit {100 * MOST_CPU_SHARE:.0f} %); use more --processes"
            )
        if self.late_share > MOST_LATE_SHARE:
            return (
                f"the load generator was the bottleneck: process {self.worker} paused for up to "
                f"{1000 * self.lag_max_s:.0f} ms, and read what came more than {1000 * MOST_LAG_S:.0f} ms late for "
                f"{100 * self.late_share:.0f} % of the time (limit {100 * MOST_LATE_SHARE:.0f} %); use another machine"
            )
        late = max(self.lag_p99_s, self.sent_late_p99_s)
        if late > MOST_LAG_S:
            return (
                f"the load generator was the bottleneck: process {self.worker} was {1000 * late:.0f} ms late at p99 "
                f"(limit {1000 * MOST_LAG_S:.0f} ms); use more --processes, or another machine"
            )
        return ""


@dataclass(frozen=True)
class Run:
    """A run, without its requests.

    settings: every option with its value, the seed included. started: UTC, ISO 8601. is_open: requests were sent when
    their time came (open loop), not when an answer had come (closed loop). Measured is what was to be sent from
    warm_up_s until warm_up_s + duration_s after the begin. levels: the load that was wanted, as (s since the begin,
    users or requests/s). server, machine: facts by name. partial: why it ended early; empty if it did not.
    """

    settings: Mapping[str, Any]
    started: str
    is_open: bool
    warm_up_s: float
    duration_s: float
    slo: Slo
    levels: Sequence[tuple[float, float]]
    server: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    generators: Sequence[Generator] = ()
    partial: str = ""

    @property
    def problems(self) -> list[str]:
        """Why the figures are not valid; empty if they are."""
        return [problem for one in self.generators if (problem := one.problem)]

    def to_json(self) -> dict[str, Any]:
        """Plain values, as `run.json` holds them."""
        return {**asdict(self), "slo": dict(self.slo.limits_s)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Run":
        """Of such values. Raises KeyError or TypeError for others."""
        return cls(
            **{
                **values,
                "slo": Slo(values["slo"]),
                "levels": [(float(at), float(level)) for at, level in values["levels"]],
                "generators": [Generator(**one) for one in values["generators"]],
            }
        )
