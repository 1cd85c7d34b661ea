"""What is said of a run: the content of `summary.json`, described in `summary.schema.json` and `definitions.py`."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .columns import Flow, latencies_s
from .record import CANCELLED, Record
from .run import Run
from .statistics import Distribution, rounded
from .timeline import timeline_of

SCHEMA = "trireme-load/1"

#: What has a distribution in ms.
LATENCIES = ("ttft", "tpot", "itl", "e2e", "queue", "sent_late")

_MS = 1000.0

#: An example of an error is no longer than this.
_MOST_EXAMPLE = 500


def schema() -> dict[str, Any]:
    """JSON Schema of a summary."""
    text = Path(__file__).with_name("summary.schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def measured_s(run: Run, records: Sequence[Record]) -> float:
    """How long was measured: of a run that ended early, until its last request was over."""
    if not run.partial:
        return run.duration_s
    last_s = max((record.end_s for record in records), default=0.0)
    return min(max(last_s - run.warm_up_s, 0.0), run.duration_s)


def measured(run: Run, records: Sequence[Record]) -> list[Record]:
    """Those that were to be sent in the measured time."""
    return [one for one in records if run.warm_up_s <= one.intended_s < run.warm_up_s + run.duration_s]


def invalid_because(run: Run, records: Sequence[Record]) -> list[str]:
    """Why the figures of a run cannot be used; empty if they can."""
    found = [*run.problems]
    if run.partial:
        found.append(f"the run ended early: {run.partial}")
    if not any(record.is_ok for record in measured(run, records)):
        found.append("no request succeeded in the measured time")
    return found


def summarize(run: Run, records: Sequence[Record]) -> dict[str, Any]:
    """Plain values without NaN. Rates count all records that brought something in the measured time, also if they were
    sent in the warm-up; everything else is of those that were to be sent in it."""
    length_s = measured_s(run, records)
    ours = measured(run, records)
    reasons = invalid_because(run, records)
    return {
        "schema": SCHEMA,
        "valid": not reasons,
        "invalid_because": reasons,
        "partial": run.partial,
        "settings": plain(run.settings),
        "started": run.started,
        "open_loop": run.is_open,
        "server": plain(run.server),
        "machine": plain(run.machine),
        "generators": [plain(asdict(one)) for one in run.generators],
        "warm_up_s": rounded(run.warm_up_s),
        "measured_s": rounded(length_s),
        **_figures(run, records, ours, length_s),
        "errors": _errors(ours),
        "by_scenario": _by(run, records, ours, length_s, lambda record: record.scenario),
        "by_release": _by(run, records, ours, length_s, lambda record: record.release),
        "by_model": _by(run, records, ours, length_s, lambda record: record.model),
        "timeline": timeline_of(run, records, run.warm_up_s + length_s),
    }


def _figures(run: Run, records: Sequence[Record], ours: Sequence[Record], length_s: float) -> dict[str, Any]:
    """Those that a group has, too."""
    late = np.asarray([record.lag_s for record in ours], dtype=np.float64)
    samples = {**latencies_s(ours), "sent_late": late}
    good = [record for record in ours if record.is_ok]
    flow = Flow(records, run.slo)
    edges = np.asarray((run.warm_up_s, run.warm_up_s + length_s))

    def rate(amounts: Any) -> float | None:
        return rounded(float(amounts.sum()) / length_s) if length_s > 0 else None

    return {
        "requests": _counts(ours),
        **{name: {"unit": "ms", **Distribution.of(samples[name]).to_json(_MS)} for name in LATENCIES},
        "requests_per_s": rate(flow.successes(edges)),
        "tokens_per_s": {"total": rate(flow.tokens(edges)), "per_user": _per_user(good)},
        "input_tokens": _tokens([record.input_tokens for record in good]),
        "output_tokens": _tokens([record.output_tokens for record in good]),
        "goodput": {
            "slo": {name: rounded(limit, _MS) for name, limit in run.slo.limits_s.items()},
            "requests_per_s": rate(flow.good(edges)),
            "share": _share(sum(run.slo.is_met(record) for record in ours), ours),
        },
    }


def _counts(records: Sequence[Record]) -> dict[str, int]:
    return {
        "sent": len(records),
        "succeeded": sum(record.is_ok for record in records),
        "failed": sum(record.is_failed for record in records),
        "cancelled": sum(record.code == CANCELLED for record in records),
    }


def _share(count: int, records: Sequence[Record]) -> float | None:
    """Of those that were not cancelled; None if there are none."""
    finished = sum(record.code != CANCELLED for record in records)
    return rounded(count / finished) if finished else None


def _tokens(counts: Sequence[int]) -> dict[str, Any]:
    return {"unit": "tokens", **Distribution.of(counts).to_json()}


def _per_user(good: Sequence[Record]) -> dict[str, Any]:
    rates = [one.output_tokens / one.e2e_s for one in good if one.streamed and one.output_tokens and one.e2e_s > 0]
    return {"unit": "tokens/s", **Distribution.of(rates).to_json()}


def _errors(records: Sequence[Record]) -> dict[str, Any]:
    failed = [record for record in records if record.is_failed]
    by_code: dict[str, list[Record]] = {}
    for record in failed:
        by_code.setdefault(record.code, []).append(record)
    return {
        "count": len(failed),
        "share": _share(len(failed), records),
        "by_code": {
            code: {
                "count": len(found),
                "share": _share(len(found), records),
                "example": next((one.error for one in found if one.error), "")[:_MOST_EXAMPLE],
            }
            for code, found in sorted(by_code.items(), key=lambda item: (-len(item[1]), item[0]))
        },
    }


def _by(
    run: Run, records: Sequence[Record], ours: Sequence[Record], length_s: float, key: Callable[[Record], str]
) -> dict[str, Any]:
    """The figures of each group, in alphabetical order; those without a name have the empty one, and are no group by
    themselves alone."""
    names = sorted({key(record) for record in ours})
    if names == [""]:
        return {}
    grouped: dict[str, tuple[list[Record], list[Record]]] = {name: ([], []) for name in names}
    for index, part in enumerate((records, ours)):
        for record in part:
            if key(record) in grouped:
                grouped[key(record)][index].append(record)
    return {
        name: {**_figures(run, everything, mine, length_s), "errors": _errors(mine)}
        for name, (everything, mine) in grouped.items()
    }


def plain(value: Any) -> Any:
    """Of values that JSON knows: NaN and infinities become None, what it does not know becomes text."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
