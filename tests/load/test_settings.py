"""The options of a run."""

import argparse
from pathlib import Path

import pytest

from trireme_load.errors import SettingError
from trireme_load.settings import OPTIONS, Settings


def settings(users: int = 8, spawn_rate: float = 8.0, run_time: float | None = None, **values: str) -> Settings:
    given = {name.replace("-", "_"): default for name, (default, _) in OPTIONS.items()} | values
    options = argparse.Namespace(host="", num_users=users, spawn_rate=spawn_rate, run_time=run_time, **given)
    return Settings.of(options)


def test_the_defaults_are_a_closed_loop_over_grpc() -> None:
    found = settings()
    assert found.address == "127.0.0.1:8001" and not found.arrivals.is_open and found.slo.limits_s == {}
    assert found.duration_s is None and found.shape.level(3) == 8


def test_a_seed_is_drawn_and_recorded() -> None:
    first, second = settings(), settings()
    assert first.seed != second.seed and first.to_json()["seed"] == first.seed
    assert settings(seed="5").seed == "5"


def test_locust_s_run_time_holds_the_warm_up_too() -> None:
    assert settings(run_time=30, warm_up="5s").duration_s == 25
    with pytest.raises(SettingError, match="run-time is 3 s; the warm-up alone takes 5 s"):
        settings(run_time=3, warm_up="5s")


def test_a_soak_lasts_an_hour_unless_told_otherwise() -> None:
    assert settings(shape="soak").duration_s == 3600
    assert settings(shape="soak", duration="10m").duration_s == 600
    assert settings().duration_s is None


def test_an_open_loop_has_its_rate_as_level() -> None:
    found = settings(arrival="poisson", rate="12", duration="10s", shape="step:2")
    assert found.arrivals.is_open and [found.shape.level(at) for at in (1, 14)] == [6, 12]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"target": "ftp"}, "target is 'ftp'; allowed are grpc, http, openai"),
        ({"slo": "ttft<1"}, "slo has 'ttft<1'"),
        ({"slo": "ttft=fast"}, "slo ttft is 'fast'"),
        ({"duration": "long"}, "duration is 'long'"),
        ({"duration": "0s"}, "more than 0"),
        ({"warm_up": "-1s"}, "warm-up is '-1s'"),
        ({"timeout": "0"}, "timeout is '0'"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"max_tokens": "0", "prompts": "synthetic:8/8"}, "max-tokens is '0'"),
        ({"prompts": "nowhere.txt"}, "nowhere.txt cannot be read"),
        ({"arrival": "poisson"}, "--rate says how many"),
        ({"rate": "5"}, "rate is for open loops"),
        ({"arrival": "poisson", "rate": "0"}, "rate is '0'"),
        ({"arrival": "trace"}, "--trace FILE belong together"),
        ({"shape": "spike"}, "needs a --duration"),
        ({"shape": "wave", "duration": "9s"}, "shape is 'wave'"),
    ],
)
def test_what_makes_no_sense_is_named(values: dict[str, str], words: str) -> None:
    with pytest.raises(SettingError) as caught:
        settings(**values)
    assert words in str(caught.value)


def test_a_trace_says_how_long_the_run_is(tmp_path: Path) -> None:
    lines = [f'{{"timestamp": {at}, "input_length": 4, "output_length": 4}}' for at in (0, 20_000)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found = settings(arrival="trace", trace=str(tmp_path / "t.jsonl"), warm_up="5s")
    assert found.whole_s == 20 and len(found.trace) == 2
