"""`trireme bench overload`: what is served in time when more is asked than can be done."""

import json
import shutil
import tempfile
from pathlib import Path

from ..layout import Layout
from ..serve import prepare_engines
from .load import Load, quantile
from .root import copy_repositories
from .runs import measure, table, write_json
from .serving import resident_bytes, serving

#: A request counts if its first token came within this time.
TTFT_LIMIT_MS = 1000
MAX_TOKENS = 64

_HEAD = (
    "times the load",
    "asked/s",
    "served/s",
    "in time/s",
    "TTFT p50 ms",
    "p99",
    "refused/s",
    "refusal p50 ms",
    "p99",
    "server MiB",
)


def run(layout: Layout, seconds: float) -> int:
    """Find the rate that saturates the reference model, multiply it, print a table and one line of JSON."""
    with tempfile.TemporaryDirectory(prefix="trireme-bench-") as name:
        root = copy_repositories(layout, Path(name), {})
        shutil.copytree(layout.root / "build" / "checkpoints", Path(name) / "build" / "checkpoints")
        prepare_engines(root)
        with serving(root) as server:
            closed = measure(server, Load("", "ensemble", 32, MAX_TOKENS, seconds / 2, warm_up_s=2.0)).result
            saturating = closed.tokens_per_s / MAX_TOKENS
            print(f"32 streams in a closed loop: {saturating:.1f} answers/s of {MAX_TOKENS} tokens", flush=True)
            rows: list[list[float | str]] = []
            figures: list[dict[str, float]] = []
            for times in (0.5, 0.8, 1.0, 4.0, 10.0):
                load = Load("", "ensemble", 0, MAX_TOKENS, seconds, warm_up_s=3.0, rate_per_s=times * saturating)
                result = measure(server, load).result
                in_time = sum(value <= TTFT_LIMIT_MS for value in result.ttft_ms) / seconds
                mib = sum(resident_bytes(server).values()) / 2**20
                row = [load.rate_per_s, result.requests / seconds, in_time]
                row += [quantile(result.ttft_ms, share) for share in (0.5, 0.99)]
                row += [result.refused / seconds, *(quantile(result.refusal_ms, share) for share in (0.5, 0.99)), mib]
                rows.append([f"{times:g}", *row])
                figures.append({"times": times, **dict(zip(_HEAD[1:], row, strict=True))})
                print(table(_HEAD, [rows[-1]]).splitlines()[-1], flush=True)
    write_json(layout, "overload", figures)
    print(table(_HEAD, rows), flush=True)
    goodput = {str(row[0]): float(row[3]) for row in rows}
    peak = max(goodput.values())
    line = {f"goodput_share_at_{times}x": round(goodput[times] / peak, 3) for times in ("4", "10")}
    print(json.dumps({**line, "refusal_ms_p99_at_10x": round(float(rows[-1][8]), 1)}), flush=True)
    return 0
