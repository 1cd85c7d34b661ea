import json
import math
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from load_runs import NASTY, busy, failed, request, run_of
from trireme_load.record import CANCELLED, Record
from trireme_load.run import Generator
from trireme_load.slo import Slo
from trireme_load.summary import schema, summarize

MS = 1000


def summary_of(records: list[Record], **values: Any) -> dict[str, Any]:
    """Valid, as every summary has to be."""
    found = summarize(run_of(**values), records)
    jsonschema.Draft202012Validator(schema()).validate(json.loads(json.dumps(found, allow_nan=False)))
    return found


#: One each of: before the measured time, fast, late and slow, not streamed, failed, cancelled, after it.
BEFORE = request(0.5, first_token_s=0.8, last_token_s=1.2, end_s=1.2, output_tokens=5)
FAST = request(1.0, first_token_s=1.1, last_token_s=1.2, end_s=1.25, queue_s=0.02, scenario="a", release="r1")
LATE = request(
    2.0, sent_s=2.5, first_token_s=2.8, last_token_s=4.8, end_s=4.8, gaps_s=(0.5, 1.5), output_tokens=5, queue_s=0.04,
    scenario="b", release="r2",
)  # fmt: skip
PLAIN = request(3.0, first_token_s=None, end_s=3.5, output_tokens=10, scenario="b", release="r2")
FAILED = failed(4.0)
LEFT = replace(FAILED, intended_s=5.0, sent_s=5.0, end_s=5.5, code=CANCELLED, error="")
AFTER = request(11.0)
ALL = [BEFORE, FAST, LATE, PLAIN, FAILED, LEFT, AFTER]


def test_every_figure_of_a_few_requests_is_as_worked_out_by_hand() -> None:
    found = summary_of(ALL, slo=Slo({"ttft": 0.5}))
    assert found["requests"] == {"sent": 5, "succeeded": 3, "failed": 1, "cancelled": 1}
    # 0.1 s, and 0.8 s from when it was to be sent.
    assert found["ttft"]["count"] == 2
    assert found["ttft"]["p50"] == pytest.approx(450)
    assert found["ttft"]["p90"] == pytest.approx(100 + 0.9 * 700)
    assert found["ttft"]["max"] == pytest.approx(800)
    # (1.2 - 1.1) / 2 and (4.8 - 2.8) / 4.
    assert found["tpot"]["mean"] == pytest.approx((50 + 500) / 2)
    assert found["itl"]["count"] == 4
    assert found["itl"]["mean"] == pytest.approx((50 + 50 + 500 + 1500) / 4)
    assert found["e2e"]["count"] == 3
    assert found["e2e"]["p50"] == pytest.approx(500)
    assert found["e2e"]["max"] == pytest.approx(2800)
    assert found["queue"]["mean"] == pytest.approx(30)
    assert found["sent_late"]["max"] == pytest.approx(500)
    # The one sent in the warm-up ended in the measured time.
    assert found["requests_per_s"] == pytest.approx(4 / 10)
    # Half of the first one's, and all of the others'.
    assert found["tokens_per_s"]["total"] == pytest.approx((5 / 2 + 3 + 5 + 10) / 10)
    assert found["tokens_per_s"]["per_user"]["count"] == 2
    assert found["tokens_per_s"]["per_user"]["max"] == pytest.approx(3 / 0.25)
    assert found["output_tokens"]["mean"] == pytest.approx(6)
    assert found["goodput"] == {"slo": {"ttft": 500}, "requests_per_s": 0.3, "share": 0.5}
    assert found["errors"]["count"] == 1
    assert found["errors"]["share"] == pytest.approx(1 / 4)
    assert found["errors"]["by_code"] == {"UNAVAILABLE": {"count": 1, "share": 0.25, "example": "UNAVAILABLE: no"}}
    assert found["valid"] and not found["invalid_because"]


def test_groups_have_the_same_figures() -> None:
    found = summary_of(ALL)
    assert set(found["by_scenario"]) == {"a", "b", "chat"}
    assert found["by_scenario"]["b"]["requests_per_s"] == 0.2
    assert found["by_scenario"]["b"]["e2e"]["count"] == 2
    assert found["by_scenario"]["chat"]["errors"]["count"] == 1
    assert set(found["by_release"]) == {"", "r1", "r2"}
    assert found["by_release"]["r1"]["ttft"]["max"] == pytest.approx(100)
    assert found["by_model"]["ensemble"]["ttft"] == found["ttft"]


def test_there_are_no_groups_of_releases_where_none_is_known() -> None:
    assert summary_of([request(2.0)])["by_release"] == {}


@given(st.integers(0, 20))
def test_what_fails_improves_no_latency(count: int) -> None:
    good = [request(2.0 + index / 10) for index in range(5)]
    before, after = summary_of(good), summary_of(good + [failed(3.0, end_s=3.0)] * count)
    for name in ("ttft", "tpot", "itl", "e2e", "queue"):
        assert after[name] == before[name]
    assert after["requests_per_s"] == before["requests_per_s"]
    assert after["tokens_per_s"] == before["tokens_per_s"]
    assert after["goodput"]["share"] == pytest.approx(5 / (5 + count), abs=1e-6)


def test_a_request_that_broke_off_brings_no_tokens() -> None:
    broken = request(2.0, code="UNAVAILABLE", error="gone")
    assert summary_of([request(2.0), broken])["tokens_per_s"]["total"] == pytest.approx(0.3)


def test_the_measured_time_begins_with_its_first_moment_and_ends_before_its_last() -> None:
    assert summary_of([request(0.9999), request(1.0), request(10.9999), request(11.0)])["requests"]["sent"] == 2


def test_without_requests_nothing_was_measured() -> None:
    found = summary_of([])
    assert not found["valid"]
    assert found["invalid_because"] == ["no request succeeded in the measured time"]
    assert found["ttft"]["p50"] is None
    assert found["requests_per_s"] == 0
    assert found["goodput"]["share"] is None
    assert found["errors"] == {"count": 0, "share": None, "by_code": {}}


def test_a_run_in_which_all_failed_is_invalid_and_says_how() -> None:
    found = summary_of([failed(2.0, "A"), failed(3.0, "B"), failed(4.0, "B", error="")])
    assert not found["valid"]
    assert found["errors"]["share"] == 1
    assert list(found["errors"]["by_code"]) == ["B", "A"]
    assert found["e2e"]["mean"] is None


def test_a_run_that_ended_early_is_measured_until_its_end_and_invalid() -> None:
    found = summary_of([request(2.0), request(4.8)], partial="stopped by hand")
    assert found["measured_s"] == pytest.approx(4.0)
    assert found["requests_per_s"] == pytest.approx(1 / 4)
    assert found["invalid_because"] == ["the run ended early: stopped by hand"]


def test_a_run_that_ended_in_its_warm_up_measured_nothing() -> None:
    found = summary_of([request(0.1)], partial="the server went away")
    assert found["measured_s"] == 0
    assert found["requests_per_s"] is None
    assert found["tokens_per_s"]["total"] is None


def test_a_busy_generator_makes_a_run_invalid() -> None:
    found = summary_of([request(2.0)], generators=[Generator(3, 0.97, 0.001, 0.002, 0.0, 10)])
    assert not found["valid"]
    assert "process 3 used 97 %" in found["invalid_because"][0]


def test_one_token_has_no_tpot_and_what_was_not_streamed_no_ttft() -> None:
    one = request(2.0, last_token_s=2.1, gaps_s=(), output_tokens=1)
    found = summary_of([one, request(3.0, first_token_s=None)])
    assert found["tpot"]["count"] == found["itl"]["count"] == 0
    assert found["ttft"]["count"] == 1
    assert found["e2e"]["count"] == 2
    assert found["tokens_per_s"]["total"] == pytest.approx(0.4)


def test_json_knows_no_nan_and_any_text() -> None:
    records = [request(2.0, scenario=NASTY), failed(3.0, NASTY, error=NASTY * 50)]
    found = summary_of(records, settings={"rate": math.nan, "list": (1, math.inf)}, server={"at": object})
    assert found["settings"] == {"rate": None, "list": [1, None]}
    assert len(found["errors"]["by_code"][NASTY]["example"]) == 500
    assert NASTY in found["by_scenario"]


def test_the_timeline_adds_up_to_the_whole() -> None:
    records = busy(2000, releases=("a", "b"))
    found = summary_of(records, warm_up_s=20.0, duration_s=100.0, levels=[(0.0, 1.0), (60.0, 5.0)])
    line = found["timeline"]
    assert 60 <= len(line) <= 120
    assert line[-1]["t"] + line[-1]["width"] == pytest.approx(120)
    measured = [one for one in line if one["t"] >= 20]
    for name, total in (("requests_per_s", found["requests_per_s"]), ("tokens_per_s", found["tokens_per_s"]["total"])):
        assert sum(one[name] * one["width"] for one in measured) == pytest.approx(total * 100, rel=1e-4)
    assert {one["wanted"] for one in line} == {1.0, 5.0}


def test_the_timeline_shows_what_was_in_flight_and_what_went_wrong() -> None:
    records = [request(2.0, first_token_s=2.5, last_token_s=4.0, end_s=4.0, gaps_s=()), failed(3.0, end_s=3.05)]
    line = summary_of(records, duration_s=4.0, levels=[(2.0, 3.0)])["timeline"]
    assert line[0]["width"] == pytest.approx(0.1)
    by_time = {round(one["t"], 3): one for one in line}
    assert by_time[3.0]["in_flight"] == pytest.approx(1.5)
    assert by_time[3.0]["errors"] == 1
    assert by_time[2.0]["ttft_p99"] == pytest.approx(500)
    assert by_time[2.1]["ttft_p99"] is None
    assert by_time[1.0]["wanted"] is None
    assert by_time[2.0]["wanted"] == 3.0


def test_a_day_has_no_more_intervals_than_can_be_drawn() -> None:
    found = summary_of([request(50_000.0)], duration_s=86_400.0)
    assert len(found["timeline"]) <= 120


def test_every_key_of_the_schema_is_described() -> None:
    def undescribed(node: Any, path: str) -> list[str]:
        if not isinstance(node, dict):
            return []
        found = [
            f"{path}.{name}"
            for name, one in node.get("properties", {}).items()
            if "description" not in one and "$ref" not in one
        ]
        return found + [bad for key, one in node.items() for bad in undescribed(one, f"{path}.{key}")]

    assert undescribed(schema(), "") == []
    jsonschema.Draft202012Validator.check_schema(schema())
