"""Whether a request was answered as well as its clients were promised: what goodput and burn rates are made of."""

from dataclasses import dataclass
from enum import Enum

from .api.errors import CLIENT_LEFT
from .ledger.rows import Row
from .settings import SloSettings


class Outcome(str, Enum):
    """Of one request. slow: answered, not within the objectives. failed: by fault of the servers or of the gateway."""

    GOOD = "good"
    SLOW = "slow"
    FAILED = "failed"


@dataclass(frozen=True)
class Judged:
    """tpot_s: from the first token to the end, for each further token; None where there is none, or no stream."""

    outcome: Outcome
    tpot_s: float | None = None


def judge(row: Row, slo: SloSettings, streamed: bool, sequences: int, over_quota: bool) -> Judged | None:
    """Judge a request by what is known of it at its end.

    None where nobody was promised anything: a request at fault itself, over its quota, or whose client left. A full
    queue is a failure: the client did nothing wrong. What is not streamed may take as long as a stream within both
    objectives would. sequences: answers at once, which share `row.tokens_out`.
    """
    if row.status == CLIENT_LEFT or over_quota:
        return None
    if row.status >= 400:
        return Judged(Outcome.FAILED) if row.status >= 500 or row.status == 429 else None
    further = max(0.0, row.tokens_out / max(1, sequences) - 1)
    if not streamed or row.ttft_ms is None:
        is_good = row.total_ms <= slo.ttft_ms + further * slo.tpot_ms
        return Judged(Outcome.GOOD if is_good else Outcome.SLOW)
    tpot_ms = max(0.0, row.total_ms - row.ttft_ms) / further if further > 0 else None
    is_good = row.ttft_ms <= slo.ttft_ms and (tpot_ms is None or tpot_ms <= slo.tpot_ms)
    return Judged(Outcome.GOOD if is_good else Outcome.SLOW, None if tpot_ms is None else tpot_ms / 1000)
