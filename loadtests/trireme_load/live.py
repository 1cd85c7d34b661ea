"""How a run goes while it goes: what was measured in the last seconds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .columns import latencies_s
from .record import Record

#: Over how long figures are taken, in s; a process reports every 3 s at the latest, so the last ones are not yet in.
WINDOW_S, REPORTED_AFTER_S = 5.0, 3.0


@dataclass(frozen=True)
class Moment:
    """The last WINDOW_S before at_s. Times in ms, None where nothing was measured. errors: since the begin."""

    at_s: float
    level: float
    in_flight: int
    requests_per_s: float
    tokens_per_s: float
    ttft_p50: float | None
    ttft_p95: float | None
    itl_p50: float | None
    itl_p95: float | None
    tpot_p50: float | None
    e2e_p50: float | None
    errors: int


def moment(at_s: float, level: float, in_flight: int, records: Sequence[Record], errors: int) -> Moment:
    """Of records in the order in which they ended, up to now. errors: how many there were since the begin."""
    last: list[Record] = []
    for record in reversed(records):
        if record.end_s < at_s - WINDOW_S - REPORTED_AFTER_S:
            break
        last.append(record)
    good = [record for record in last if record.is_ok]
    span_s = min(WINDOW_S + REPORTED_AFTER_S, max(0.5, at_s))

    samples = latencies_s(good)

    def ms(name: str, share: float) -> float | None:
        values = samples[name]
        return round(1000 * float(np.quantile(values, share)), 2) if values.size else None

    return Moment(
        at_s=round(at_s, 1),
        level=round(level, 2),
        in_flight=in_flight,
        requests_per_s=round(len(good) / span_s, 2),
        tokens_per_s=round(sum(record.output_tokens for record in good) / span_s, 1),
        ttft_p50=ms("ttft", 0.5),
        ttft_p95=ms("ttft", 0.95),
        itl_p50=ms("itl", 0.5),
        itl_p95=ms("itl", 0.95),
        tpot_p50=ms("tpot", 0.5),
        e2e_p50=ms("e2e", 0.5),
        errors=errors,
    )
