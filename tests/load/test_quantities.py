import pytest
from hypothesis import given
from hypothesis import strategies as st

from trireme_load.errors import SettingError
from trireme_load.quantities import duration_s, number, positive_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("1.5s", 1.5), ("2m", 120), ("1h", 3600), ("7", 7), (" 3s ", 3), ("0", 0)],
)
def test_a_duration_has_a_unit_or_is_in_seconds(text: str, seconds: float) -> None:
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "1 s", "-1s", "1d", "1e3", "nan", "inf", "1.s", "1s2"])
def test_what_is_no_duration_is_named(text: str) -> None:
    with pytest.raises(SettingError, match="warm-up is"):
        duration_s(text, "warm-up")


@pytest.mark.parametrize("text", ["0", "0ms", "0.0h"])
def test_nothing_is_not_positive(text: str) -> None:
    with pytest.raises(SettingError, match="more than 0 is needed"):
        positive_s(text)


@given(st.integers(0, 10**6))
def test_a_number_of_ms_is_a_thousandth_of_as_many_s(count: int) -> None:
    assert duration_s(f"{count}ms") * 1000 == pytest.approx(duration_s(f"{count}s"))


def test_a_number_is_within_its_limits() -> None:
    assert number("2.5", "rate", 0, 10) == 2.5
    assert number("10", "users", 1, 10, whole=True) == 10


@pytest.mark.parametrize("text", ["x", "nan", "-1", "11", "inf", ""])
def test_another_number_is_refused_with_its_limits(text: str) -> None:
    with pytest.raises(SettingError, match=r"rate is .*; a number from 0 to 10 is needed"):
        number(text, "rate", 0, 10)


def test_a_part_is_no_whole_number() -> None:
    with pytest.raises(SettingError, match="a whole number from 1 to 10"):
        number("2.5", "users", 1, 10, whole=True)
