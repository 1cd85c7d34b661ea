from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from load_pages import Page
from load_runs import NASTY, busy, failed, request, run_of
from trireme_load.compare import Comparison, compare
from trireme_load.compared import Kind, Row, row_of
from trireme_load.record import Record
from trireme_load.report.compare_page import compare_page
from trireme_load.slo import Slo
from trireme_load.statistics import Interval

RUN = run_of(warm_up_s=0.0, duration_s=120.0)


def compared(a: list[Record], b: list[Record], **values: Any) -> Comparison:
    return compare(RUN, a, replace(RUN, **values), b, ("before", "after"))


def verdicts(comparison: Comparison) -> dict[str, str]:
    return {row.title: row.verdict for row in comparison.rows}


def test_a_run_is_no_better_than_itself() -> None:
    same = busy(500)
    assert set(verdicts(compared(same, same)).values()) == {"no clear difference"}


def test_another_run_of_the_same_server_differs_hardly() -> None:
    found = verdicts(compared(busy(800, seed=1), busy(800, seed=2)))
    assert sum(word != "no clear difference" for word in found.values()) <= 2


def test_a_server_that_is_half_as_fast_is_worse_by_that() -> None:
    found = compared(busy(800, seed=1), busy(800, seed=2, slow=2.0))
    by_title = {row.title: row for row in found.rows}
    for title in ("TTFT p50, ms", "TTFT mean, ms", "TPOT p50, ms", "ITL p50, ms", "ITL p99, ms", "E2E p50, ms"):
        row = by_title[title]
        assert row.verdict == "worse", title
        assert row.value == pytest.approx(2.0, rel=0.15)
        assert row.interval is not None and row.interval.holds(row.value)
    back = compared(busy(800, seed=2, slow=2.0), busy(800, seed=1))
    assert verdicts(back)["TTFT p50, ms"] == "better"


def test_more_requests_are_better_and_more_errors_worse() -> None:
    a = [request(index / 10) for index in range(1000)]
    b = [request(index / 20) for index in range(2000)] + [failed(index / 2) for index in range(200)]
    found = verdicts(compared(a, b))
    assert found["requests/s"] == found["output tokens/s"] == "better"
    assert found["errors, share"] == found["goodput, share"] == "worse"
    assert found["TTFT p50, ms"] == "no clear difference"


def test_the_word_depends_on_the_interval_and_on_which_way_is_better() -> None:
    def word(kind: Kind, low: float, high: float) -> str:
        return Row("x", kind, 1.0, 1.0, Interval(low, high)).verdict

    assert word(Kind.LATENCY, 0.8, 0.9) == word(Kind.RATE, 1.1, 1.2) == "better"
    assert word(Kind.LATENCY, 1.1, 1.2) == word(Kind.RATE, 0.8, 0.9) == "worse"
    assert word(Kind.GOOD_SHARE, 0.1, 0.2) == word(Kind.BAD_SHARE, -0.2, -0.1) == "better"
    assert word(Kind.LATENCY, 0.9, 1.1) == word(Kind.BAD_SHARE, -0.1, 0.1) == "no clear difference"


def test_what_was_not_measured_cannot_be_compared() -> None:
    row = row_of("x", Kind.LATENCY, None, 1.0, np.empty(0), np.ones(3), "p50")
    assert (row.verdict, row.change, row.interval_text) == ("not measured", "-", "-")
    none_yet = row_of("x", Kind.RATE, 0.0, 1.0, np.zeros(3), np.ones(3), "mean")
    assert (none_yet.verdict, none_yet.change) == ("no clear difference", "-")


def test_settings_that_differ_are_named_and_where_results_go_is_not() -> None:
    settings = {"users": 2, "seed": 8, "prompts": "file.txt", "out": "elsewhere"}
    found = compared([request(2.0)], [request(2.0)], settings=settings, is_open=True, slo=Slo({"ttft": 1.0})).warnings
    assert "seed differs: 7 and 8" in found
    assert "prompts differs: 'built in' and 'file.txt'" in found
    assert "the loop (open or closed) differs: False and True" in found
    assert "the objective differs: {} and {'ttft': 1.0}" in found
    assert not any("out" in one.split()[0] or "users" in one for one in found)


def test_runs_that_are_not_valid_are_named() -> None:
    found = compared([request(2.0)], [failed(2.0)])
    assert found.warnings == ["after is not valid: no request succeeded in the measured time"]
    assert verdicts(found)["TTFT p50, ms"] == "not measured"
    assert "INVALID" in Page(compare_page(found)).words


def test_the_text_is_a_table() -> None:
    lines = compared(
        busy(300), busy(300, slow=2.0), settings={"users": 4, "seed": 7, "prompts": "built in"}
    ).text.splitlines()
    assert lines[:3] == ["A: before", "B: after", "WARNING: users differs: 2 and 4"]
    assert lines[4].split() == ["A", "B", "B", "against", "A", "95", "%", "interval", "B", "is"]
    assert [line.split("  ")[0] for line in lines[5:]][:4] == [
        "TTFT p50, ms",
        "TTFT p99, ms",
        "TTFT mean, ms",
        "TPOT p50, ms",
    ]
    assert lines[5].endswith("worse")


def test_a_page_compares_figures_curves_and_settings() -> None:
    page = Page(compare_page(compared(busy(300), busy(300, slow=2.0))))
    assert page.rows["TTFT p50, ms"][-1] == "worse"
    assert page.rows["seed"] == ["7", "7"]
    assert len(page.charts) == 6


@pytest.mark.parametrize("records", [[], [request(2.0, first_token_s=None)]], ids=["none", "not streamed"])
def test_a_page_is_there_whatever_was_measured(records: list[Record]) -> None:
    Page(compare_page(compared(records, records)))


def test_names_are_only_text() -> None:
    records = [request(2.0), request(3.0)]
    run = replace(RUN, settings={NASTY: NASTY})
    page = Page(compare_page(compare(run, records, RUN, records, (NASTY, "\x1b[31m"))))
    assert "<script" not in page.text
    assert "\x1b" not in compare(run, records, RUN, records, ("\x1b[31m", NASTY)).text
