"""The figures of LLMs: what an operator looks at, from counters and gauges. Pure."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..releases.watch import Histogram
from .rates import Counts, Growth, Labels, histogram, joined, share_within, summed

#: `releases.llm.DEFAULT_LLM`, whose module takes half a second to import.
DEFAULT_LLM = "ensemble"

QUANTILES = (0.5, 0.95, 0.99)

#: Codes of refusals that are the server's fault; the others are a full queue's, or the client's.
_FAULTS = ("UNAVAILABLE", "INTERNAL")
_FULL = "RESOURCE_EXHAUSTED"

#: What the names of an added LLM's models end with.
_MODELS = ("_tensorrt_llm", "_preprocessing", "_postprocessing")


@dataclass(frozen=True)
class Figures:
    """Of one LLM, release or server, or of several together.

    Rates are a second; None where there is no growth to tell them from. failed_per_s: answers that ended with an error,
    and refusals by fault of the server; they are among requests_per_s. refused_per_s: a full queue's; they are not.
    ttft, tpot, queue: in s; TTFT is that of streams, and TPOT is read from a sample of the gaps between ids.
    pending: requests that Triton has not given to a model yet. Gauges are of now.
    """

    tokens_per_s: float | None = None
    requests_per_s: float | None = None
    failed_per_s: float | None = None
    refused_per_s: float | None = None
    ttft: Histogram = field(default_factory=Histogram)
    tpot: Histogram = field(default_factory=Histogram)
    queue: Histogram = field(default_factory=Histogram)
    streams_per_s: float | None = None
    running: float = 0.0
    waiting: float = 0.0
    pending: float = 0.0
    kv_used: float = 0.0
    kv_total: float = 0.0
    engine_restarts: float = 0.0

    @property
    def error_rate(self) -> float | None:
        """0 to 1; None where nothing was asked."""
        if not self.requests_per_s or self.failed_per_s is None:
            return None
        return self.failed_per_s / self.requests_per_s

    @property
    def kv_share(self) -> float | None:
        """0 to 1; None where the engine has no such cache."""
        return self.kv_used / self.kv_total if self.kv_total else None

    def goodput(self, ttft_slo_s: float) -> tuple[float | None, float | None]:
        """Streams a second whose first token came within the objective, and their share of all streams."""
        share = share_within(self.ttft, ttft_slo_s)
        return (None if share is None or self.streams_per_s is None else share * self.streams_per_s), share

    def to_json(self, ttft_slo_s: float | None = None) -> dict[str, Any]:
        """For programs; times in s."""
        document: dict[str, Any] = {
            "tokens_per_s": self.tokens_per_s,
            "requests_per_s": self.requests_per_s,
            "failed_per_s": self.failed_per_s,
            "refused_per_s": self.refused_per_s,
            "error_rate": self.error_rate,
            "running": self.running,
            "waiting": self.waiting,
            "pending": self.pending,
            "kv_used_blocks": self.kv_used,
            "kv_total_blocks": self.kv_total,
            "kv_share": self.kv_share,
            "engine_restarts": self.engine_restarts,
        }
        for name, one in (("ttft_s", self.ttft), ("tpot_s", self.tpot), ("queue_s", self.queue)):
            document[name] = quantiles(one)
        if ttft_slo_s is not None:
            rate, share = self.goodput(ttft_slo_s)
            document |= {"goodput_per_s": rate, "goodput_share": share}
        return document


def quantiles(one: Histogram) -> dict[str, float | None]:
    """p50, p95, p99, and how many were observed."""
    return {**{f"p{100 * share:g}": one.quantile(share) for share in QUANTILES}, "count": one.count}


def llm_of(model: str) -> str:
    """The LLM that a model is part of."""
    for suffix in _MODELS:
        if model.endswith(suffix):
            return model.removesuffix(suffix)
    return DEFAULT_LLM


def figures_of(grown: Growth, gauges: Counts) -> Figures:
    """Those of everything that is in these counters and gauges."""
    counts = grown.counts

    def rate(count: float) -> float | None:
        return count / grown.elapsed_s if grown.elapsed_s else None

    ended = summed(counts, "trireme_requests_finished_total")
    faults = sum(summed(counts, "trireme_requests_refused_total", code=code) for code in _FAULTS)
    errors = summed(counts, "trireme_requests_finished_total", finish_reason="error")
    ttft = histogram(counts, "trireme_time_to_first_token_seconds")
    return Figures(
        tokens_per_s=rate(summed(counts, "trireme_generated_tokens_total")),
        requests_per_s=rate(ended + faults),
        failed_per_s=rate(errors + faults),
        refused_per_s=rate(summed(counts, "trireme_requests_refused_total", code=_FULL)),
        ttft=ttft,
        tpot=histogram(counts, "trireme_inter_token_seconds"),
        queue=histogram(counts, "trireme_queue_seconds"),
        streams_per_s=rate(ttft.count),
        running=summed(gauges, "trireme_requests_running"),
        waiting=summed(gauges, "trireme_requests_waiting"),
        pending=summed(gauges, "nv_inference_pending_request_count"),
        kv_used=summed(gauges, "trireme_kv_cache_blocks_used"),
        kv_total=summed(gauges, "trireme_kv_cache_blocks_total"),
        engine_restarts=summed(gauges, "trireme_engine_restarts_total"),
    )


@dataclass(frozen=True)
class Served:
    """A release of an LLM as one server has it. release: "" for what was loaded for none. versions: of its engine."""

    llm: str
    release: str
    versions: tuple[str, ...]
    is_up: bool
    figures: Figures


def served_of(grown: Growth, gauges: Counts) -> list[Served]:
    """Each release of each LLM whose engine model is loaded."""
    engines: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for name, labels in gauges:
        if name == "trireme_engine_up":
            named = dict(labels)
            engines[llm_of(named.get("model", "")), named.get("release", "")].add(named.get("version", ""))
    served = []
    for (llm, release), versions in sorted(engines.items()):
        these = _part(gauges, llm, release)
        up = [value for (name, _), value in these.items() if name == "trireme_engine_up"]
        figures = figures_of(Growth(grown.elapsed_s, _part(grown.counts, llm, release)), these)
        served.append(Served(llm, release, tuple(sorted(versions)), all(up), figures))
    return served


def _part(counts: Counts, llm: str, release: str) -> Counts:
    return {key: value for key, value in counts.items() if _belongs(key[1], llm, release)}


def _belongs(labels: Labels, llm: str, release: str) -> bool:
    named = dict(labels)
    if "model" not in named:
        return False
    # Triton's own have the release in the model's name.
    model, _, in_name = named["model"].partition("@")
    known = model.endswith(_MODELS) or model in ("tensorrt_llm", "preprocessing", "postprocessing")
    return known and llm_of(model) == llm and named.get("release", in_name) == release


def together(several: Iterable[Figures]) -> Figures:
    """Those of several servers, or releases, as one."""
    all_of = list(several)

    def rate(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) if known else None

    return Figures(
        tokens_per_s=rate(one.tokens_per_s for one in all_of),
        requests_per_s=rate(one.requests_per_s for one in all_of),
        failed_per_s=rate(one.failed_per_s for one in all_of),
        refused_per_s=rate(one.refused_per_s for one in all_of),
        ttft=joined(one.ttft for one in all_of),
        tpot=joined(one.tpot for one in all_of),
        queue=joined(one.queue for one in all_of),
        streams_per_s=rate(one.streams_per_s for one in all_of),
        running=sum(one.running for one in all_of),
        waiting=sum(one.waiting for one in all_of),
        pending=sum(one.pending for one in all_of),
        kv_used=sum(one.kv_used for one in all_of),
        kv_total=sum(one.kv_total for one in all_of),
        engine_restarts=sum(one.engine_restarts for one in all_of),
    )


@dataclass(frozen=True)
class Gpu:
    """One GPU as Triton sees it. use and memory: 0 to 1, None where it does not say."""

    uuid: str
    use: float | None
    memory: float | None


def gpus_of(gauges: Counts) -> list[Gpu]:
    """The GPUs of a server."""
    found: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for (name, labels), value in gauges.items():
        if name.startswith("nv_gpu_"):
            found[dict(labels).get("gpu_uuid", "")][name] = value
    gpus = []
    for uuid, values in sorted(found.items()):
        total = values.get("nv_gpu_memory_total_bytes")
        used = values.get("nv_gpu_memory_used_bytes")
        memory = used / total if total and used is not None else None
        gpus.append(Gpu(uuid, values.get("nv_gpu_utilization"), memory))
    return gpus


@dataclass(frozen=True)
class GatewayFigures:
    """Of a gateway. Rates a second; failed: answers of status 5xx; refused: 429; hits: the cache's share, 0 to 1."""

    requests_per_s: float | None
    failed_per_s: float | None
    refused_per_s: float | None
    tokens_per_s: float | None
    retries_per_s: float | None
    ttft: Histogram
    queue: Histogram
    running: float
    waiting: float
    hits: float | None
    servers_ready: float
    servers: int

    def to_json(self) -> dict[str, Any]:
        """For programs; times in s."""
        plain = {name: value for name, value in vars(self).items() if name not in ("ttft", "queue")}
        return {**plain, "ttft_s": quantiles(self.ttft), "queue_s": quantiles(self.queue)}


def gateway_figures(grown: Growth, gauges: Counts) -> GatewayFigures:
    """From the metrics of a gateway."""

    def rate(count: float) -> float | None:
        return count / grown.elapsed_s if grown.elapsed_s else None

    def count(name: str, **labels: str) -> float:
        return summed(grown.counts, f"trireme_gateway_{name}", **labels)

    failed = sum(
        value
        for (name, labels), value in grown.counts.items()
        if name == "trireme_gateway_requests_total" and dict(labels).get("status", "").startswith("5")
    )
    asked = sum(count("cache_total", outcome=outcome) for outcome in ("hit", "miss", "joined"))
    return GatewayFigures(
        requests_per_s=rate(count("requests_total")),
        failed_per_s=rate(failed),
        refused_per_s=rate(count("requests_total", status="429")),
        tokens_per_s=rate(count("tokens_total", kind="answer")),
        retries_per_s=rate(count("retries_total")),
        ttft=histogram(grown.counts, "trireme_gateway_time_to_first_token_seconds"),
        queue=histogram(grown.counts, "trireme_gateway_queue_seconds"),
        running=summed(gauges, "trireme_gateway_requests_running"),
        waiting=summed(gauges, "trireme_gateway_requests_waiting"),
        hits=count("cache_total", outcome="hit") / asked if asked else None,
        servers_ready=summed(gauges, "trireme_gateway_server_ready"),
        servers=sum(name == "trireme_gateway_server_ready" for name, _ in gauges),
    )
