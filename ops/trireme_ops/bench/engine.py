"""`trireme bench engine`: the whole path with the CPU engine, against the engine alone with the same requests."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trireme_runtime.engines.base import EngineSettings

from ..engines import prepare_engines
from ..family import FamilySpec, add_family
from ..layout import Layout
from .load import Load, Result, quantile
from .root import copy_repositories
from .runs import Measured, measure, measure_engine, summary, table, write_json
from .serving import serving

CONCURRENCIES = (1, 8, 32)
MAX_TOKENS = 64
ROUNDS = 3

#: The name of the family with random weights.
RANDOM = "random"

_PROMPT = "Tell me something about it."
_HEAD = (
    "",
    "streams",
    "tokens/s",
    "of the engine's",
    "messages/s",
    "tokens/message",
    "TTFT p50 ms",
    "engine's",
    "gap p99 ms",
    "CPU us/message",
)


def run(layout: Layout, seconds: float) -> int:
    """Measure, print a table and one line of JSON."""
    from trireme_build.random_checkpoint import B, write_checkpoint
    from trireme_runtime.tokenizing import load_tokenizer

    tokenizer = layout.root / "model_repository" / "postprocessing" / "1" / "tokenizer"
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="trireme-bench-") as name:
        folder = Path(name)
        root = copy_repositories(layout, folder, {})
        shutil.copytree(layout.root / "build" / "checkpoints", folder / "build" / "checkpoints")
        print("Making a random model of 125 million parameters ...", flush=True)
        write_checkpoint(folder / "checkpoint", load_tokenizer(tokenizer), dimensions=B)
        add_family(root, FamilySpec(RANDOM, folder / "checkpoint"))
        prepare_engines(root)
        rows: list[list[float | str]] = []
        for label, model, prefix in (("random 125 M", RANDOM, f"{RANDOM}_"), ("reference", "ensemble", "")):
            engine = root.root / "model_repository" / f"{prefix}tensorrt_llm" / "1" / "engine"
            for concurrency in CONCURRENCIES:
                load = Load("", model, concurrency, MAX_TOKENS, seconds, warm_up_s=seconds / 2, prompt=_PROMPT)
                alone: list[Result] = []
                path: list[Measured] = []
                # In turns: the machine's other work should hit both.
                for _ in range(ROUNDS):
                    alone.append(measure_engine("openvino", engine, EngineSettings(), tokenizer, load))
                    with serving(root) as server:
                        path.append(measure(server, load))
                rows.append(_add(figures, label, concurrency, alone, path))
                print(table(_HEAD, [rows[-1]]).splitlines()[-1], flush=True)
    write_json(layout, "engine", figures)
    print(table(_HEAD, rows), flush=True)
    random = {f["concurrency"]: f for f in figures if f["model"] == "random 125 M"}
    reference = {f["concurrency"]: f for f in figures if f["model"] == "reference"}
    line = {f"ratio_c{c}": random[c]["ratio"] for c in CONCURRENCIES}
    line |= {f"reference_ratio_c{c}": reference[c]["ratio"] for c in CONCURRENCIES}
    print(json.dumps(line), flush=True)
    return 0


def _add(
    figures: list[dict[str, Any]], label: str, concurrency: int, alone: Sequence[Result], path: Sequence[Measured]
) -> list[float | str]:
    engine_rate = sum(r.tokens for r in alone) / sum(r.seconds for r in alone)
    path_rate = sum(m.result.tokens for m in path) / sum(m.result.seconds for m in path)
    messages = sum(m.result.messages for m in path)
    seconds = sum(m.result.seconds for m in path)
    first = quantile([value for m in path for value in m.result.ttft_ms], 0.5)
    engine_first = quantile([value for r in alone for value in r.ttft_ms], 0.5)
    per_message_us = sum(m.cpu_us_per_message * m.result.messages for m in path) / max(1, messages)
    tokens_per_message = sum(m.result.tokens for m in path) / max(1, messages)
    figures.append(
        {
            "model": label,
            "concurrency": concurrency,
            "ratio": round(path_rate / engine_rate, 3),
            "engine_tokens_per_s": round(engine_rate, 1),
            "cpu_us_per_message": round(per_message_us, 1),
            "path": [summary(m.result) for m in path],
            "engine": [summary(r) for r in alone],
        }
    )
    return [
        label,
        str(concurrency),
        path_rate,
        f"{100 * path_rate / engine_rate:.1f} %",
        messages / seconds,
        tokens_per_message,
        first,
        engine_first,
        quantile([value for m in path for value in m.result.gaps_ms], 0.99),
        per_message_us,
    ]
