import pytest

from load_runs import failed, request
from trireme_load.errors import SettingError
from trireme_load.record import CANCELLED
from trireme_load.slo import Slo


def test_limits_are_parsed() -> None:
    assert Slo.parse(" ttft=500ms, tpot = 50ms ,").limits_s == {"ttft": 0.5, "tpot": 0.05}
    assert Slo.parse("").limits_s == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ttft", "slo has 'ttft'"),
        ("p99=1s", "slo has 'p99=1s'; allowed are ttft=500ms"),
        ("ttft=fast", "slo ttft is 'fast'"),
        ("ttft=0s", "more than 0"),
        ("ttft=1s,ttft=2s", "slo names 'ttft' twice"),
    ],
)
def test_a_bad_objective_is_named(text: str, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        Slo.parse(text)


def test_every_limit_has_to_be_met() -> None:
    record = request()  # TTFT 0.1 s, TPOT 0.05 s, gaps 0.05 s, E2E 0.2 s
    assert Slo.parse("ttft=101ms,tpot=51ms,itl=50ms,e2e=201ms").is_met(record)
    for text in ("ttft=99ms", "tpot=49ms", "itl=49ms", "e2e=199ms"):
        assert not Slo.parse(f"{text},e2e=1h" if "e2e" not in text else text).is_met(record)


def test_the_longest_gap_decides() -> None:
    assert not Slo.parse("itl=100ms").is_met(request(gaps_s=(0.01, 0.2, 0.01)))


def test_what_was_to_be_sent_earlier_was_slower() -> None:
    assert not Slo.parse("ttft=150ms").is_met(request(0.0, sent_s=1.0, first_token_s=1.1))


def test_a_figure_that_a_request_lacks_is_met() -> None:
    assert Slo.parse("tpot=1ms,ttft=1ms").is_met(request(first_token_s=None))


def test_what_failed_or_left_is_never_good() -> None:
    assert not Slo().is_met(failed())
    assert not Slo().is_met(request(code=CANCELLED))
