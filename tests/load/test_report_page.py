import time
from typing import Any

import pytest

from load_pages import Page
from load_runs import NASTY, busy, failed, request, run_of
from trireme_load.record import Record
from trireme_load.report.page import run_page
from trireme_load.run import Generator
from trireme_load.slo import Slo
from trireme_load.summary import summarize
from trireme_load.thresholds import check, parse_thresholds


def page_of(records: list[Record], limits: dict[str, Any] | None = None, **values: Any) -> Page:
    run = run_of(**values)
    summary = summarize(run, records)
    misses = check(parse_thresholds(limits, "t.toml"), summary) if limits else []
    return Page(run_page(run, records, summary, misses))


def test_a_page_shows_the_figures_of_its_summary() -> None:
    page = page_of([request(2.0), request(3.0, first_token_s=3.3), failed(4.0)], slo=Slo({"ttft": 0.2}))
    assert page.rows["TTFT"] == ["2", "200", "200", "280", "290", "298", "300"]
    assert page.rows["UNAVAILABLE"] == ["1", "33.3 %", "UNAVAILABLE: no"]
    assert page.rows["chat"][:3] == ["3", "200", "298"]
    assert page.rows["seed"] == ["7"]
    assert page.rows["process 0"] == ["25.0 %", "1.00", "4.00", "0", "1,000"]
    assert "ttft ≤ 200 ms" in page.words
    assert "INVALID" not in page.words
    assert "DistServe" in page.words and "coordinated omission" in page.words


def test_a_long_run_has_every_chart() -> None:
    page = page_of(busy(600), warm_up_s=20.0, duration_s=100.0)
    assert len(page.charts) == 8
    for title in ("Throughput over time", "Errors over time", "Inter-token latency", "End-to-end latency"):
        assert title in page.words
    assert "Releases" not in page.words


@pytest.mark.parametrize("count", [400, 6000])
def test_releases_are_compared_before_during_and_after(count: int) -> None:
    page = page_of(busy(count, releases=("v1", "v2")), warm_up_s=0.0, duration_s=120.0)
    assert "by the release that answered" in page.words
    during = page.rows["change from v1 to v2"]
    assert {"before", "after v2 came"} <= set(page.rows)
    assert during[0].endswith(" s") and int(during[1].replace(",", "")) > 0
    assert "v1" in page.rows and "v2" in page.rows


def test_what_is_wrong_is_on_top() -> None:
    page = page_of(
        [request(2.0)],
        {"max": {"ttft.p99": "80ms"}},
        partial="the server went away",
        generators=[Generator(1, 0.99, 0.0, 0.0, 0.0, 1)],
    )
    banner = page.words.index("PARTIAL AND INVALID")
    assert banner < page.words.index("ttft.p99 is 100 ms; at most 80ms is allowed") < page.words.index("Over time")
    assert "the run ended early: the server went away" in page.words
    assert "process 1 used 99 %" in page.words


@pytest.mark.parametrize(
    "records",
    [[], [failed(2.0), failed(3.0)], [request(2.0, first_token_s=None)], [request(2.0, output_tokens=1, gaps_s=())]],
    ids=["none", "all failed", "not streamed", "one token"],
)
def test_a_page_is_there_whatever_was_measured(records: list[Record]) -> None:
    page = page_of(records)
    assert ("INVALID" in page.words) == (not any(record.is_ok for record in records))


def test_a_run_that_measured_nothing_has_no_charts_over_time() -> None:
    page = page_of([], warm_up_s=0.0, partial="it never began")
    assert page.charts == []
    assert "Nothing was measured." in page.words


def test_what_others_say_is_only_text() -> None:
    records = [
        request(2.0, scenario=NASTY, release=NASTY, model=NASTY),
        request(3.0, release="\x1b\x00\n", model="b"),
        failed(4.0, NASTY, error=NASTY),
    ]
    facts = {NASTY: NASTY}
    page = page_of(records, settings=facts, server=facts, machine={"<b>": {"x": NASTY}}, partial=NASTY)
    assert "<script" not in page.text.replace("&lt;script", "")
    assert page.rows[NASTY]
    assert NASTY in page.words


def test_a_hundred_thousand_requests_are_a_page_of_some_seconds_and_less_than_2_mb() -> None:
    records = [request(index / 10_000, release=f"v{index // 50_000}") for index in range(100_000)]
    began = time.perf_counter()
    page = page_of(records)
    assert len(page.text) < 2_000_000
    assert time.perf_counter() - began < 60


def test_many_points_are_still_a_small_page() -> None:
    page = page_of(busy(4900), warm_up_s=0.0, duration_s=120.0)
    assert len(page.text) < 2_000_000
