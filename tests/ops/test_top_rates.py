"""What `trireme top` makes of counters, without a server."""

import math

import pytest

from trireme_ops.releases.watch import Sample
from trireme_ops.top.figures import figures_of, gateway_figures, gpus_of, served_of, together
from trireme_ops.top.rates import Growth, Reading, Series, growth, histogram, joined, share_within, summed

TOKENS, FINISHED, TTFT = (
    "trireme_generated_tokens_total",
    "trireme_requests_finished_total",
    "trireme_time_to_first_token_seconds",
)


def reading(at_s: float, *lines: str) -> Reading:
    return Reading(at_s, Sample.parse("\n".join(lines) + "\n", ("trireme_", "nv_")))


def tokens(value: float, version: str = "1", release: str = "") -> str:
    return f'{TOKENS}{{model="tensorrt_llm",version="{version}",release="{release}"}} {value}'


def buckets(name: str, counts: dict[str, float], labels: str = "") -> list[str]:
    return [f'{name}_bucket{{{labels}le="{bound}"}} {count}' for bound, count in counts.items()]


def test_quantiles_are_those_of_prometheus() -> None:
    """The values of promql/promqltest/testdata/histograms.test: testhistogram, start="positive", at 50m."""
    counts = {"0.1": 50.0, "0.2": 70.0, "1e0": 110.0, "+Inf": 120.0}
    sample = reading(0, *buckets("trireme_x", counts)).sample
    one = histogram(sample.values, "trireme_x")
    wanted = {0.2: 0.048, 0.5: 0.15, 0.8: 0.72, 1.0: 1.0}
    assert {share: one.quantile(share) for share in wanted} == pytest.approx(wanted)


def test_a_quantile_above_the_last_bound_is_that_bound_and_of_nothing_is_none() -> None:
    one = histogram(reading(0, *buckets("trireme_x", {"1": 1, "+Inf": 10})).sample.values, "trireme_x")
    assert one.quantile(0.99) == 1.0
    assert histogram({}, "trireme_x").quantile(0.5) is None


def test_buckets_that_fall_are_held() -> None:
    one = histogram(reading(0, *buckets("trireme_x", {"1": 5, "2": 3, "+Inf": 6})).sample.values, "trireme_x")
    assert one.buckets == ((1.0, 5.0), (2.0, 5.0), (math.inf, 6.0))


def test_growth_is_the_difference() -> None:
    grown = growth(reading(10, tokens(100)), reading(12, tokens(160)))
    assert (grown.elapsed_s, summed(grown.counts, TOKENS)) == (2, 60)


def test_a_model_that_was_loaded_again_counts_from_0_in_all_its_counters() -> None:
    """Also in those that have already passed their earlier value."""
    finished = f'{FINISHED}{{model="tensorrt_llm",version="1",release="",finish_reason="stop"}}'
    before = reading(0, tokens(100), f"{finished} 1", tokens(7, release="r2"))
    after = reading(1, tokens(30), f"{finished} 4", tokens(9, release="r2"))
    grown = growth(before, after)
    assert summed(grown.counts, TOKENS, release="") == 30
    assert summed(grown.counts, FINISHED) == 4
    assert summed(grown.counts, TOKENS, release="r2") == 2


def test_a_gauge_that_falls_is_no_model_that_was_loaded_again() -> None:
    pending = 'nv_inference_pending_request_count{model="tensorrt_llm",version="1"}'
    grown = growth(reading(0, tokens(100), f"{pending} 5"), reading(1, tokens(130), f"{pending} 0"))
    assert summed(grown.counts, TOKENS) == 30


def test_a_counter_that_is_new_counts_from_0() -> None:
    assert summed(growth(reading(0, tokens(1)), reading(1, tokens(1), tokens(5, "2"))).counts, TOKENS) == 5


def test_the_window_forgets_and_leaves_silence_out() -> None:
    series = Series(window_s=3)
    for second in range(10):
        series.add(reading(second, tokens(10 * second)))
    assert (series.window.elapsed_s, summed(series.window.counts, TOKENS)) == (3, 30)
    series.missed()
    assert series.window == Growth()
    series.add(reading(60, tokens(5_000)))
    assert series.window.elapsed_s == 0
    series.add(reading(61, tokens(5_020)))
    assert (series.window.elapsed_s, summed(series.window.counts, TOKENS)) == (1, 20)


def test_a_window_shorter_than_the_interval_holds_the_last_stretch() -> None:
    series = Series(window_s=0.2)
    for at_s in (0, 5, 10):
        series.add(reading(at_s, tokens(at_s)))
    assert series.window.elapsed_s == 5


def test_the_share_within_an_objective_is_even_within_a_bucket() -> None:
    one = histogram(reading(0, *buckets("trireme_x", {"1": 10, "2": 20, "+Inf": 40})).sample.values, "trireme_x")
    assert [share_within(one, limit) for limit in (0.5, 1, 1.5, 2, 99)] == [0.125, 0.25, 0.375, 0.5, 0.5]
    assert share_within(histogram({}, "trireme_x"), 1) is None


def test_histograms_of_servers_join_over_the_bounds_they_share() -> None:
    one = histogram(reading(0, *buckets("trireme_x", {"1": 1, "2": 2, "+Inf": 2})).sample.values, "trireme_x")
    other = histogram(reading(0, *buckets("trireme_x", {"2": 3, "+Inf": 4})).sample.values, "trireme_x")
    assert joined([one, other]).buckets == ((2.0, 5.0), (math.inf, 6.0))


LABELS = 'model="tensorrt_llm",version="1",release=""'
GAUGES = [
    f"trireme_engine_up{{{LABELS}}} 1",
    f"trireme_requests_running{{{LABELS}}} 3",
    f"trireme_requests_waiting{{{LABELS}}} 2",
    f"trireme_kv_cache_blocks_used{{{LABELS}}} 45",
    f"trireme_kv_cache_blocks_total{{{LABELS}}} 50",
]


def test_the_figures_of_a_server() -> None:
    after = reading(
        2,
        *GAUGES,
        tokens(200),
        f'{FINISHED}{{{LABELS},finish_reason="stop"}} 8',
        f'{FINISHED}{{{LABELS},finish_reason="error"}} 1',
        'trireme_requests_refused_total{model="preprocessing",version="1",release="",code="UNAVAILABLE"} 1',
        'trireme_requests_refused_total{model="preprocessing",version="1",release="",code="RESOURCE_EXHAUSTED"} 6',
        'trireme_requests_refused_total{model="preprocessing",version="1",release="",code="INVALID_ARGUMENT"} 9',
        *buckets(TTFT, {"0.1": 2, "0.5": 4, "+Inf": 4}, f"{LABELS},"),
    )
    one = figures_of(growth(reading(0), after), after.sample.values)
    assert (one.tokens_per_s, one.requests_per_s, one.failed_per_s, one.refused_per_s) == (100, 5, 1, 3)
    assert one.error_rate == 0.2
    assert one.kv_share == 0.9
    assert (one.running, one.waiting) == (3, 2)
    assert one.goodput(0.1) == (1.0, 0.5)
    two = together([one, one])
    assert (two.tokens_per_s, two.kv_share, two.ttft.count) == (200, 0.9, 8)


def test_without_two_readings_there_are_gauges_and_no_rates() -> None:
    one = figures_of(Growth(), reading(0, *GAUGES, tokens(7)).sample.values)
    assert (one.tokens_per_s, one.error_rate, one.running) == (None, None, 3)


def test_each_llm_and_release_has_figures_of_its_own() -> None:
    lines = [
        *GAUGES,
        'trireme_engine_up{model="tensorrt_llm",version="2",release="r7"} 1',
        'trireme_engine_up{model="tiny_tensorrt_llm",version="1",release=""} 0',
        tokens(10),
        tokens(20, "2", "r7"),
        f'{TOKENS}{{model="tiny_tensorrt_llm",version="1",release=""}} 40',
        'trireme_requests_refused_total{model="tiny_preprocessing",version="1",release="",code="INTERNAL"} 1',
        'nv_inference_pending_request_count{model="tensorrt_llm@r7",version="2"} 5',
        'nv_inference_pending_request_count{model="ensemble",version="1"} 50',
    ]
    after = reading(1, *lines)
    served = served_of(growth(reading(0), after), after.sample.values)
    assert [(one.llm, one.release, one.versions, one.is_up) for one in served] == [
        ("ensemble", "", ("1",), True),
        ("ensemble", "r7", ("2",), True),
        ("tiny", "", ("1",), False),
    ]
    assert [one.figures.tokens_per_s for one in served] == [10, 20, 40]
    assert [one.figures.pending for one in served] == [0, 5, 0]
    assert [one.figures.failed_per_s for one in served] == [0, 0, 1]


def test_the_gpus_of_a_server() -> None:
    lines = [
        'nv_gpu_utilization{gpu_uuid="GPU-1"} 0.62',
        'nv_gpu_memory_total_bytes{gpu_uuid="GPU-1"} 80',
        'nv_gpu_memory_used_bytes{gpu_uuid="GPU-1"} 60',
        'nv_gpu_utilization{gpu_uuid="GPU-2"} 0',
    ]
    one, other = gpus_of(reading(0, *lines).sample.values)
    assert (one.uuid, one.use, one.memory) == ("GPU-1", 0.62, 0.75)
    assert (other.use, other.memory) == (0, None)


def test_the_figures_of_a_gateway() -> None:
    asked = 'trireme_gateway_requests_total{endpoint="/v1/completions",model="ensemble",status="%s"} %d'
    after = reading(
        2,
        *(asked % pair for pair in (("200", 6), ("429", 2), ("503", 2))),
        'trireme_gateway_cache_total{outcome="hit"} 1',
        'trireme_gateway_cache_total{outcome="miss"} 3',
        'trireme_gateway_cache_total{outcome="bypass"} 9',
        'trireme_gateway_server_ready{server="a"} 1',
        'trireme_gateway_server_ready{server="b"} 0',
    )
    one = gateway_figures(growth(reading(0), after, ()), after.sample.values)
    assert (one.requests_per_s, one.failed_per_s, one.refused_per_s) == (5, 1, 1)
    assert (one.hits, one.servers_ready, one.servers) == (0.25, 1, 2)
