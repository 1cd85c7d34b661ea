import pytest

from load_runs import failed, request
from trireme_load.record import Record
from trireme_load.releases import phases, releases_of


def answered(release: str, *times_s: float, ttft_s: float = 0.1) -> list[Record]:
    return [request(at, release=release, first_token_s=at + ttft_s) for at in times_s]


def test_releases_are_in_the_order_in_which_they_answered() -> None:
    records = [*answered("b", 3.0), *answered("a", 5.0), *answered("c", 1.0), failed(0.0, release="d"), request(0.0)]
    assert releases_of(records) == ["c", "b", "a"]


def test_a_change_lasts_while_both_answer() -> None:
    records = [*answered("v1", 0.0, 1.0, 2.0, 4.0), *answered("v2", 3.0, 5.0, 6.0, ttft_s=0.3), failed(3.5)]
    before, during, after = phases(records)
    assert (before.name, before.start_s, before.end_s, before.requests, before.releases) == (
        "before", 0.0, 3.0, 3, ("v1",)
    )  # fmt: skip
    assert (during.name, during.start_s, during.end_s, during.requests, during.failed) == (
        "change from v1 to v2", 3.0, 4.0, 2, 1
    )  # fmt: skip
    assert during.errors_share == 0.5
    assert during.ttft.max == pytest.approx(0.3)
    assert after.releases == ("v1", "v2")
    assert after.requests == 3


def test_a_change_at_once_has_no_time_between() -> None:
    found = phases([*answered("v1", 0.0, 1.0), *answered("v2", 2.0, 3.0)])
    assert [(phase.name, phase.requests) for phase in found] == [("before", 2), ("after v2 came", 2)]


def test_a_release_that_was_taken_back_is_over_when_it_answered_last() -> None:
    found = phases([*answered("v1", 0.0, 1.0, 3.0, 5.0, 6.0), *answered("v2", 2.0, 4.0)])
    assert [(phase.start_s, phase.end_s) for phase in found] == [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0)]
    assert [phase.requests for phase in found] == [2, 2, 3]


def test_every_request_is_in_one_phase() -> None:
    records = [*answered("a", 0, 1, 2, 6), *answered("b", 3, 5, 7, 8), *answered("c", 4, 9), failed(8.5)]
    assert sum(phase.requests for phase in phases(records)) == len(records)


def test_one_release_does_not_change() -> None:
    assert phases(answered("v1", 0.0, 1.0)) == []
    assert phases([]) == []
