"""`trireme bench overload`: what is served in time when more is asked than can be done."""

import json
import shutil
import tempfile
from pathlib import Path

from ..engines import prepare_engines
from ..layout import Layout
from .load import Load, quantile
from .path import PACED_STEPS_PER_S
from .root import NullModel, copy_repositories, use_null_engine
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
    """Find the rate that saturates each engine, multiply it, print tables and one line of JSON."""
    tokenizer = layout.root / "model_repository" / "postprocessing" / "1" / "tokenizer"
    with tempfile.TemporaryDirectory(prefix="trireme-bench-") as name:
        cpu = copy_repositories(layout, Path(name) / "cpu", {})
        shutil.copytree(layout.root / "build" / "checkpoints", cpu.root / "build" / "checkpoints")
        prepare_engines(cpu)
        null = copy_repositories(layout, Path(name) / "null", {})
        use_null_engine(null, NullModel.of_tokenizer(tokenizer, PACED_STEPS_PER_S))
        print("The CPU engine, which shares its cores with the path and the load generator:", flush=True)
        figures = {"cpu": _measured(cpu, seconds)}
        print(f"\nThe null engine at {PACED_STEPS_PER_S:g} steps/s, as one with a device of its own:", flush=True)
        figures["null"] = _measured(null, seconds)
    write_json(layout, "overload", figures)
    line: dict[str, float] = {}
    for engine, rows in figures.items():
        goodput = {row["times"]: row["in time/s"] for row in rows}
        peak = max(goodput.values())
        line |= {f"{engine}_goodput_share_at_{times:g}x": round(goodput[times] / peak, 3) for times in (4.0, 10.0)}
        line[f"{engine}_refusal_ms_p50_at_10x"] = round(rows[-1]["refusal p50 ms"], 1)
    print(json.dumps(line), flush=True)
    return 0


def _measured(root: Layout, seconds: float) -> list[dict[str, float]]:
    """What is served of each multiple of the saturating load."""
    figures: list[dict[str, float]] = []
    with serving(root) as server:
        closed = measure(server, Load("", "ensemble", 32, MAX_TOKENS, seconds / 2, warm_up_s=2.0)).result
        saturating = closed.tokens_per_s / MAX_TOKENS
        print(f"32 streams in a closed loop: {saturating:.1f} answers/s of {MAX_TOKENS} tokens", flush=True)
        rows: list[list[float | str]] = []
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
    print(table(_HEAD, rows), flush=True)
    return figures
