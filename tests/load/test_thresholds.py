from pathlib import Path
from typing import Any

import pytest

from load_runs import failed, request, run_of
from trireme_load.errors import SettingError
from trireme_load.summary import summarize
from trireme_load.thresholds import KEYS, check, parse_thresholds, read_thresholds

SUMMARY = summarize(run_of(), [request(2.0), failed(3.0)])


def misses(content: dict[str, Any], summary: dict[str, Any] = SUMMARY) -> list[str]:
    return [str(miss) for miss in check(parse_thresholds(content, "t.toml"), summary)]


def test_what_is_kept_is_no_miss() -> None:
    assert misses({"max": {"ttft.p99": "100.1ms", "errors.share": 0.5}, "min": {"requests_per_s": 0.1}}) == []


def test_what_is_missed_says_by_how_much() -> None:
    assert misses({"max": {"ttft.p99": "80ms", "errors.share": 0.01}, "min": {"tokens_per_s.total": 500}}) == [
        "ttft.p99 is 100 ms; at most 80ms is allowed",
        "errors.share is 0.5; at most 0.01 is allowed",
        "tokens_per_s.total is 0.3; at least 500 is allowed",
    ]


def test_what_was_not_measured_is_a_miss() -> None:
    nothing = summarize(run_of(), [])
    assert misses({"max": {"ttft.p99": "1h"}, "min": {"goodput.share": 0}}, nothing) == [
        "ttft.p99 was not measured; at most 1h is allowed",
        "goodput.share was not measured; at least 0 is allowed",
    ]


def test_every_key_is_one_of_a_summary() -> None:
    kinds = {"duration": "1s", "share": 0.5, "number": 1}
    assert len(misses({"max": {key: kinds[kind] for key, kind in KEYS.items()}})) < len(KEYS)


def test_a_file_may_quote_its_keys_or_not(tmp_path: Path) -> None:
    path = tmp_path / "thresholds.toml"
    path.write_text('[max]\n"ttft.p99" = "0.8s"\nerrors.share = 0.01\n[min]\nrequests_per_s = 10\n')
    assert [(one.key, one.bound, one.limit) for one in read_thresholds(path)] == [
        ("ttft.p99", "max", 800.0),
        ("errors.share", "max", 0.01),
        ("requests_per_s", "min", 10.0),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[max]\n"ttft.p9" = "1s"', r"\[max\] ttft.p9 = '1s' is no figure of a summary; did you mean ttft.p9[059]\?"),
        ('[max]\n"tft.p99" = "1s"', "did you mean ttft.p99"),
        ('[max]\n"ttft.p99" = 800', r"\[max\] ttft.p99 is 800; a duration in quotes"),
        ('[max]\n"ttft.p99" = "800 ms."', r"\[max\] ttft.p99 is '800 ms.'; a duration such as"),
        ('[max]\n"errors.share" = "1%"', "errors.share is '1%'; a number from 0 to 1 is needed"),
        ('[max]\n"errors.share" = 1.5', "errors.share is 1.5; a number from 0 to 1 is needed"),
        ("[min]\nrequests_per_s = true", "requests_per_s is True; a number from 0 is needed"),
        ("[min]\nrequests_per_s = nan", "requests_per_s is nan; a number from 0 is needed"),
        ("[min]\nrequests_per_s = inf", "requests_per_s is inf; a number from 0 is needed"),
        ('[most]\n"ttft.p99" = "1s"', r"'most' is no table of thresholds; allowed are \[max\] and \[min\]"),
        ("max = 3", "'max' is no table of thresholds"),
        ("", r"has no threshold; \[max\] or \[min\] is needed"),
        ("[max", "is not TOML"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(SettingError, match=words) as raised:
        read_thresholds(path)
    assert str(path) in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"none\.toml cannot be read"):
        read_thresholds(tmp_path / "none.toml")
