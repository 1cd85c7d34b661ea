import pytest
from hypothesis import given
from hypothesis import strategies as st

from trireme_load.timeline import MOST_INTERVALS, edges_of, level_at, width_s


@pytest.mark.parametrize(
    ("length_s", "width"),
    [(5, 0.1), (60, 0.5), (61, 1), (300, 5), (3600, 30), (86_400, 900), (10**6, 10_800)],
)
def test_intervals_have_a_round_width(length_s: float, width: float) -> None:
    assert width_s(length_s) == width


@given(st.floats(0, 1e5), st.floats(0.001, 1e6))
def test_intervals_cover_all_of_a_run_and_are_not_too_many(start_s: float, length_s: float) -> None:
    edges = edges_of(start_s, start_s + length_s)
    assert 2 <= len(edges) <= MOST_INTERVALS + 1
    assert (edges[0], edges[-1]) == (start_s, start_s + length_s)
    assert (edges[1:] > edges[:-1]).all()


def test_no_time_has_no_intervals() -> None:
    assert len(edges_of(3.0, 3.0)) == 0


def test_the_wanted_load_holds_until_the_next_level() -> None:
    levels = [(1.0, 5.0), (2.0, 7.0)]
    assert [level_at(levels, at) for at in (0.5, 1.0, 1.9, 2.0, 99.0)] == [None, 5.0, 5.0, 7.0, 7.0]
    assert level_at([], 1.0) is None
