"""The load over time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trireme_load.errors import SettingError
from trireme_load.shapes import Shape, parse_shape


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("constant", {0: 8, 5: 8, 10: 8}),
        ("soak", {0: 8, 10: 8}),
        ("ramp", {0: 0, 5: 4, 10: 8}),
        ("ramp:2-4", {0: 2, 5: 3, 10: 4}),
        ("ramp:8-0", {0: 8, 5: 4, 10: 0}),
        ("step:4", {0: 2, 2.4: 2, 2.6: 4, 5.1: 6, 9: 8}),
        ("spike:3", {0: 8, 3.9: 8, 5: 24, 6.1: 8, 10: 8}),
    ],
)
def test_a_shape_has_its_levels(text: str, levels: dict[float, float]) -> None:
    shape = parse_shape(text, 8, 10)
    assert {at: shape.level(at) for at in levels} == pytest.approx(levels)


def test_a_constant_load_is_reached_at_the_spawn_rate() -> None:
    shape = parse_shape("constant", 8, 10, ramp_up_s=4)
    assert [shape.level(at) for at in (0, 2, 4, 9)] == [0, 4, 8, 8]


@pytest.mark.parametrize("text", ["", "stairs", "constant:2", "step:0", "step:x", "spike:0", "ramp:a-b", "ramp:1"])
def test_a_shape_that_is_none_is_named(text: str) -> None:
    with pytest.raises(SettingError, match="shape"):
        parse_shape(text, 8, 10)


@given(
    st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 50)), min_size=1, max_size=5),
    st.floats(0.01, 100),
)
def test_begin_time_inverts_the_integral_of_the_level(steps: list[tuple[float, float]], arrivals: float) -> None:
    corners, at = [], 0.0
    for length, level in steps:
        corners.append((at, level))
        at += length
    shape = Shape(corners)
    begin = shape.begin_time(arrivals, 1e6)
    assert begin is not None
    count = 20_000
    integral = sum(shape.level(begin * (index + 0.5) / count) for index in range(count)) * begin / count
    assert integral == pytest.approx(arrivals, rel=1e-2, abs=1e-2)
