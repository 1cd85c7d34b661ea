"""Which requests count as good, slow and failed, and what the gateway counts of them and of tenants."""

from typing import Any

import pytest

from trireme_gateway.ledger.rows import Row
from trireme_gateway.metrics import Metrics
from trireme_gateway.objectives import Judged, Outcome, judge
from trireme_gateway.settings import SloSettings

SLO = SloSettings(ttft_ms=100, tpot_ms=10)


def row(status: int = 200, ttft_ms: float | None = 50, total_ms: float = 140, tokens_out: int = 10) -> Row:
    """Of a request that was answered with 10 tokens in time."""
    empty: dict[str, Any] = dict.fromkeys(
        (
            "request_id",
            "endpoint",
            "tenant",
            "key_id",
            "model",
            "release",
            "version",
            "server",
            "cache",
            "finish_reason",
        ),
        "",
    )
    times = {"time_ms": 0, "queue_ms": 0.0, "ttft_ms": ttft_ms, "total_ms": total_ms}
    tokens = {"tokens_in": 5, "tokens_out": tokens_out, "tokens_cached": 0, "cost_nano": 0}
    return Row(status=status, person=None, **empty, **times, **tokens)


def judged(one: Row, streamed: bool = True, sequences: int = 1, over_quota: bool = False) -> Judged | None:
    return judge(one, SLO, streamed, sequences, over_quota)


def outcome(one: Row, **more: Any) -> Outcome | None:
    found = judged(one, **more)
    return None if found is None else found.outcome


def test_a_stream_is_good_within_both_objectives_and_slow_outside_one() -> None:
    assert judged(row()) == Judged(Outcome.GOOD, pytest.approx(0.010))
    assert outcome(row(ttft_ms=101, total_ms=150)) is Outcome.SLOW
    assert outcome(row(total_ms=141)) is Outcome.SLOW


def test_an_answer_of_one_token_has_no_time_per_token() -> None:
    assert judged(row(tokens_out=1, total_ms=5000)) == Judged(Outcome.GOOD)
    assert judged(row(tokens_out=0, total_ms=5000)) == Judged(Outcome.GOOD)


def test_what_is_not_streamed_may_take_as_long_as_a_stream() -> None:
    whole = {"ttft_ms": 190.0, "total_ms": 190.0}
    assert judged(row(**whole), streamed=False) == Judged(Outcome.GOOD)
    assert outcome(row(ttft_ms=191, total_ms=191), streamed=False) is Outcome.SLOW


def test_several_answers_at_once_share_the_time() -> None:
    assert outcome(row(tokens_out=40)) is Outcome.GOOD
    assert outcome(row(tokens_out=20, total_ms=141), sequences=2) is Outcome.SLOW


@pytest.mark.parametrize("status", [429, 500, 503, 504])
def test_errors_of_servers_and_full_queues_are_failures(status: int) -> None:
    assert judged(row(status=status, ttft_ms=None)) == Judged(Outcome.FAILED)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 499])
def test_nobody_was_promised_an_answer_to_a_request_that_is_wrong_or_given_up(status: int) -> None:
    assert judged(row(status=status)) is None


def test_a_quota_is_no_failure() -> None:
    assert judged(row(status=429), over_quota=True) is None


def samples(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """By the values of the labels."""
    return {
        tuple(sample.labels.values()): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == f"trireme_gateway_{name}"
    }


def test_models_are_counted_from_the_start_so_that_the_first_failure_shows() -> None:
    metrics = Metrics()
    metrics.serves("ensemble")
    assert samples(metrics, "slo_requests_total") == {("ensemble", "", one.value): 0 for one in Outcome}


def test_tenants_beyond_a_thousand_are_counted_together() -> None:
    metrics = Metrics()
    for number in range(1005):
        metrics.of_tenant(f"t{number}", "ensemble", 200, (3, 2, 1), 0.5, "EUR")
    costs = samples(metrics, "tenant_cost_total")
    assert len(costs) == 1001
    assert costs["t7", "ensemble", "EUR"] == 0.5
    assert costs["(others)", "ensemble", "EUR"] == 2.5
    assert samples(metrics, "tenant_tokens_total")["t7", "answer"] == 2
    # Those that have one keep it.
    metrics.of_tenant("t7", "ensemble", 500, (0, 0, 0), 0, "EUR")
    assert samples(metrics, "tenant_requests_total")["t7", "500"] == 1
