"""Traces that are replayed."""

from pathlib import Path

import pytest

from trireme_load.errors import SettingError
from trireme_load.trace import Call, read_trace


def written(folder: Path, *lines: str) -> Path:
    (folder / "t.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder / "t.jsonl"


def test_a_trace_begins_at_0_and_is_in_order(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '{"timestamp": 3000, "input_length": 5, "output_length": 6}',
        '{"timestamp": 1000, "input_length": 7, "output_length": 8}',
    )
    assert read_trace(path) == [Call(0.0, 7, 8), Call(2.0, 5, 6)]


def test_seconds_and_other_names_are_understood(tmp_path: Path) -> None:
    path = written(tmp_path, '{"timestamp_s": 1.5, "prompt_tokens": 5, "output_tokens": 6}', "")
    assert read_trace(path) == [Call(0.0, 5, 6)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("x", "line 1: no JSON"),
        ("[]", "line 1: '\\[\\]' is no object"),
        ('{"input_length": 1, "output_length": 1}', "none of timestamp_s"),
        ('{"timestamp": 0, "input_length": 0, "output_length": 1}', "input_length is 0"),
        ('{"timestamp": "now", "input_length": 1, "output_length": 1}', "timestamp is 'now'"),
        ('{"timestamp": 0, "input_length": 1, "output_length": true}', "output_length is True"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        read_trace(written(tmp_path, line))


def test_an_empty_trace_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="holds no request"):
        read_trace(written(tmp_path, ""))
    with pytest.raises(SettingError, match="No such file"):
        read_trace(tmp_path / "none")
