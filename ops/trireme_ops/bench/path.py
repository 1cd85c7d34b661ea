"""`trireme bench path`: everything around an engine, with the null engine, against the naive way in the same run."""

import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from trireme_runtime.engines.base import EngineSettings

from ..layout import Layout
from .load import Load, Result, quantile
from .root import NullModel, add_naive, copy_repositories, use_null_engine
from .runs import Measured, measure, measure_engine, summary, table, write_json
from .serving import serving

CONCURRENCIES = (1, 16, 64, 256)
#: Tokens of an answer, of the engine without limit and of the paced one.
MAX_TOKENS, PACED_MAX_TOKENS = 512, 128

#: The rate of the paced engine: that of a model of some ten milliseconds a step.
PACED_STEPS_PER_S = 100.0

#: One request at a time for a few tokens: one after the other on a gRPC stream that is kept, as that of `tritonclient`
#: is, or each on one of its own; and with pauses, in which the machine goes to sleep.
SHORT, NEW_STREAMS, PAUSED = "short answers", "on new streams", "with pauses"

_SETTINGS = {"max_num_sequences": "256", "max_tokens_in_paged_kv_cache": "1048576"}
_ENGINE = EngineSettings(max_num_seqs=256, kv_cache_tokens=1 << 20)

#: Puts a load on the engine alone.
Alone = Callable[[Load], Result]

_HEAD = (
    "",
    "streams",
    "tokens/s",
    "messages/s",
    "tokens/message",
    "TTFT p50 ms",
    "p99",
    "added p50",
    "p99",
    "gap p50 ms",
    "p99",
    "CPU s/M tokens",
    "generator alone, messages/s",
)


def run(layout: Layout, seconds: float) -> int:
    """Measure, print tables and one line of JSON."""
    tokenizer = layout.root / "model_repository" / "postprocessing" / "1" / "tokenizer"
    with tempfile.TemporaryDirectory(prefix="trireme-bench-") as folder:
        figures = {}
        for kind, steps_per_s in (("unlimited", 0.0), ("paced", PACED_STEPS_PER_S)):
            null = NullModel.of_tokenizer(tokenizer, steps_per_s)
            root = copy_repositories(layout, Path(folder) / kind, _SETTINGS)
            use_null_engine(root, null)
            if kind == "unlimited":
                add_naive(root, null)
            null.write(Path(folder) / kind / "engine")

            def alone(load: Load, engine: Path = Path(folder) / kind / "engine") -> Result:
                return measure_engine("null", engine, _ENGINE, tokenizer, load)

            if kind == "unlimited":
                figures[kind] = _unlimited(root, alone, seconds)
            else:
                figures[kind] = _paced(root, alone, seconds)
    write_json(layout, "path", figures)
    print(json.dumps(_line(figures)), flush=True)
    return 0


def _load(model: str, concurrency: int, seconds: float, max_tokens: int = MAX_TOKENS) -> Load:
    return Load("", model, concurrency, max_tokens, seconds, warm_up_s=min(1.0, seconds))


def _unlimited(root: Layout, alone: Alone, seconds: float) -> list[dict[str, float | str]]:
    print(f"The null engine without limit, answers of {MAX_TOKENS} tokens:", flush=True)
    rows: list[list[float | str]] = []
    figures: list[dict[str, float | str]] = []
    for concurrency in CONCURRENCIES:
        engine = alone(_load("", concurrency, min(2.0, seconds)))
        # In turns: the machine's other work should hit both.
        pairs = [_pair(root, concurrency, seconds / 2) for _ in range(2)]
        for index, name in enumerate(("trireme", "naive")):
            _add(rows, figures, name, concurrency, [pair[index] for pair in pairs], engine)
    with serving(root) as server:
        load = _load("ensemble", 1, seconds, max_tokens=2)
        for name, keep_streams in ((SHORT, True), (NEW_STREAMS, False)):
            measured = measure(server, replace(load, keep_streams=keep_streams))
            _add(rows, figures, name, 1, [measured], alone(load))
    print(table(_HEAD, rows), flush=True)
    return figures


def _pair(root: Layout, concurrency: int, seconds: float) -> list[Measured]:
    """Trireme, and the naive way last: it goes on computing what nobody waits for, so its server is killed."""
    with serving(root) as server:
        pair = [measure(server, _load(model, concurrency, seconds)) for model in ("ensemble", "naive")]
        server.kill()
        return pair


def _paced(root: Layout, alone: Alone, seconds: float) -> list[dict[str, float | str]]:
    print(f"\nThe null engine at {PACED_STEPS_PER_S:g} steps/s:", flush=True)
    rows: list[list[float | str]] = []
    figures: list[dict[str, float | str]] = []
    with serving(root) as server:
        for concurrency in CONCURRENCIES:
            load = _load("ensemble", concurrency, max(seconds, 3.0), PACED_MAX_TOKENS)
            _add(rows, figures, "trireme", concurrency, [measure(server, load)], alone(load))
        # Nothing else is under way when it asks, so this is what the path adds.
        load = replace(_load("ensemble", 1, 2 * seconds, 4), pause_s=0.02)
        _add(rows, figures, PAUSED, 1, [measure(server, load)], alone(load))
    print(table(_HEAD, rows), flush=True)
    return figures


def _add(
    rows: list[list[float | str]],
    figures: list[dict[str, float | str]],
    name: str,
    concurrency: int,
    runs: list[Measured],
    engine: Result,
) -> None:
    result = _joined([run.result for run in runs])
    first, engine_first = ([quantile(r.ttft_ms, share) for share in (0.5, 0.99)] for r in (result, engine))
    added = [mine - its for mine, its in zip(first, engine_first, strict=True)]
    gaps = [quantile(result.gaps_ms, share) for share in (0.5, 0.99)]
    generator = result.messages / result.generator_cpu_s
    cpu = statistics.mean(run.cpu_s_per_million_tokens for run in runs)
    messages_per_s, per_message = result.messages / result.seconds, result.tokens / max(1, result.messages)
    rows.append(
        [
            name,
            str(concurrency),
            result.tokens_per_s,
            messages_per_s,
            per_message,
            *first,
            *added,
            *gaps,
            cpu,
            generator,
        ]
    )
    figures.append(
        {
            "path": name,
            "concurrency": concurrency,
            **summary(result),
            "ttft_added_ms_p50": round(added[0], 3),
            "ttft_added_ms_p99": round(added[1], 3),
            "cpu_s_per_million_tokens": round(cpu, 2),
        }
    )


def _joined(results: list[Result]) -> Result:
    return Result(
        seconds=sum(r.seconds for r in results),
        tokens=sum(r.tokens for r in results),
        messages=sum(r.messages for r in results),
        requests=sum(r.requests for r in results),
        generator_cpu_s=sum(r.generator_cpu_s for r in results),
        ttft_ms=[value for r in results for value in r.ttft_ms],
        gaps_ms=[value for r in results for value in r.gaps_ms],
    )


def _line(figures: dict[str, list[dict[str, float | str]]]) -> dict[str, float]:
    def of(kind: str, path: str, concurrency: int, name: str) -> float:
        (found,) = (f for f in figures[kind] if (f["path"], f["concurrency"]) == (path, concurrency))
        return float(found[name])

    ours, naive = (of("unlimited", path, 64, "tokens_per_s") for path in ("trireme", "naive"))
    return {
        "ratio_over_naive_c64": round(ours / naive, 2),
        "tokens_per_s_c64": ours,
        "naive_tokens_per_s_c64": naive,
        "ttft_added_ms_p50_c1": of("unlimited", SHORT, 1, "ttft_added_ms_p50"),
        "ttft_added_ms_p50_c1_new_streams": of("unlimited", NEW_STREAMS, 1, "ttft_added_ms_p50"),
        "ttft_added_ms_p50_c1_paced": of("paced", "trireme", 1, "ttft_added_ms_p50"),
        "ttft_added_ms_p50_c1_after_pauses": of("paced", PAUSED, 1, "ttft_added_ms_p50"),
    }
