"""Smoke sets: files, matching, and asking real servers."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support import ROOT, Server, start_null_server, stop_server, wait_for
from trireme_build.reference.tasks import TASKS, solve
from trireme_ops.errors import OperatorError
from trireme_ops.ports import free_ports
from trireme_ops.releases.smoke import SmokeItem, WrongAnswer, read_smoke, run_smoke, warm_up
from trireme_ops.releases.ttft import compare_ttft

SHIPPED = ROOT / "releases" / "smoke" / "ensemble.jsonl"

QUESTION = [{"role": "user", "content": "What is 37 + 58?"}]


@pytest.fixture(scope="module")
def null_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start_null_server(tmp_path_factory.mktemp("null"), steps_per_s=500)
    yield running
    stop_server(running)


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": "a", "expect": "b", "match": "contains", "max_tokens": 3},
        {
            "messages": [{"role": "system", "content": "s"}, *QUESTION],
            "expect": "9+",
            "match": "regex",
            "max_tokens": 64,
        },
    ],
)
def test_an_item_is_the_same_after_json(values: dict[str, Any]) -> None:
    item = SmokeItem.from_json(values)
    assert item.to_json() == values
    assert SmokeItem.from_json(json.loads(json.dumps(item.to_json()))) == item
    hash(item)


def test_what_is_left_out() -> None:
    assert SmokeItem.from_json({"prompt": "a", "expect": "b"}) == SmokeItem(
        "b", prompt="a", match="exact", max_tokens=64
    )


@pytest.mark.parametrize(
    ("match", "expect", "right", "wrong"),
    [
        ("exact", "95", "95", "95."),
        ("prefix", "95", "95.", " 95"),
        ("contains", "95", "It is 95.", "9 5"),
        ("regex", r"(It is )?\d+\n?", "It is 95\n", "It is 95, I think"),
    ],
)
def test_matching(match: str, expect: str, right: str, wrong: str) -> None:
    item = SmokeItem(expect, prompt="?", match=match)
    assert item.is_right(right)
    assert not item.is_right(wrong)


@pytest.mark.parametrize(
    ("line", "wording"),
    [
        ("{", "line 2 is no JSON"),
        ("[]", "line 2: [] is no object"),
        ('{"expect": "b"}', "line 2: neither of prompt and messages"),
        (
            '{"prompt": "a", "messages": [{"role": "user", "content": "a"}], "expect": "b"}',
            "line 2: both of prompt and",
        ),
        ('{"prompt": "a"}', "line 2: expect is missing"),
        ('{"prompt": "a", "expect": 3}', "line 2: expect is 3; a text"),
        ('{"prompt": "a", "expect": ""}', "line 2: expect is ''"),
        ('{"prompt": 7, "expect": "b"}', "line 2: prompt is 7"),
        ('{"prompt": "a", "expect": "b", "match": "like"}', "line 2: match is 'like'; known are exact"),
        ('{"prompt": "a", "expect": "(", "match": "regex"}', "line 2: expect is '(', which is no regular expression"),
        ('{"prompt": "a", "expect": "b", "max_tokens": 0}', "line 2: max_tokens is 0"),
        ('{"prompt": "a", "expect": "b", "max_tokens": true}', "line 2: max_tokens is True"),
        ('{"prompt": "a", "expect": "b", "answer": "b"}', "line 2: the key answer is unknown"),
        ('{"messages": [], "expect": "b"}', "line 2: messages is []"),
        ('{"messages": [{"role": "user"}], "expect": "b"}', "line 2: messages holds {'role': 'user'}"),
    ],
)
def test_what_is_wrong_with_a_file_is_named_by_line_and_key(tmp_path: Path, line: str, wording: str) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(f'{{"prompt": "a", "expect": "b"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(OperatorError) as caught:
        read_smoke(path)
    assert str(caught.value).startswith(f"{path}: {wording}")


def test_files_that_are_empty_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n\n")
    with pytest.raises(OperatorError, match="holds no items"):
        read_smoke(tmp_path / "empty")
    with pytest.raises(OperatorError, match="cannot be read: No such file"):
        read_smoke(tmp_path / "none")


def test_the_shipped_set_covers_the_models_tasks() -> None:
    items = read_smoke(SHIPPED)
    asked = [item.messages[-1][1] if item.messages else item.prompt or "" for item in items]
    assert {solve(prompt).task for prompt in asked} == set(TASKS)
    assert all(solve(prompt).answer == item.expect for prompt, item in zip(asked, items, strict=True))
    assert len(items) >= 20


def test_the_shipped_set_is_answered_right_by_the_shipped_model(server: Server) -> None:
    items = read_smoke(SHIPPED)
    result = run_smoke(server.grpc, "ensemble", items)
    assert result.wrong == ()
    assert (result.score, result.right, len(result.ttft_s)) == (1.0, len(items), len(items))
    assert all(0 < ttft_s < 30 for ttft_s in result.ttft_s)


def test_wrong_answers_come_with_what_was_said(server: Server) -> None:
    right = SmokeItem.from_json({"messages": QUESTION, "expect": "95"})
    wrong = SmokeItem.from_json({"messages": QUESTION, "expect": "96"})
    result = run_smoke(server.grpc, "ensemble", [right, wrong, right, right])
    assert result.wrong == (WrongAnswer(wrong, "95"),)
    assert result.score == 0.75
    assert result.errors == ()
    assert str(result.wrong[0]) == "'What is 37 + 58?': '95' instead of '96'"


def test_errors_are_wrong_answers(server: Server) -> None:
    items = [SmokeItem("b", prompt="a"), SmokeItem("b", prompt="a long one " * 1000)]
    result = run_smoke(server.grpc, "ensemble", items)
    assert [wrong.item for wrong in result.wrong] == items
    (refused,) = result.errors
    assert refused.answer is None
    assert (refused.error or "").startswith("InvalidArgument: ")
    unknown = run_smoke(server.grpc, "ensemble@none", items)
    assert (unknown.score, len(unknown.errors), unknown.ttft_s) == (0.0, 2, ())
    assert "the error NotFound: " in str(unknown.wrong[0])


def test_nobody_there() -> None:
    result = run_smoke(f"127.0.0.1:{free_ports(1)[0]}", "ensemble", [SmokeItem("b", prompt="a")], timeout_s=5)
    assert (result.score, len(result.errors)) == (0.0, 1)


def test_an_answer_that_takes_too_long_is_an_error(null_server: Server) -> None:
    slow = SmokeItem("b", prompt="a", max_tokens=30_000)
    result = run_smoke(null_server.grpc, "ensemble", [slow], timeout_s=0.5)
    (late,) = result.errors
    assert "DeadlineExceeded" in (late.error or "")


def test_several_servers_are_asked_at_once_without_a_word(
    null_server: Server, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Each thread has an event loop of its own, and gRPC one poller for all."""
    items = [SmokeItem("b", prompt="a", max_tokens=4)] * 40
    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(run_smoke, null_server.grpc, "ensemble", items) for _ in range(4)]
    assert [(result.result().asked, result.result().errors) for result in results] == [(40, ())] * 4
    assert not caplog.records
    assert not capfd.readouterr().err


def _successes_at_rest(server: Server) -> float:
    """Triton counts an answer a moment after it was sent."""
    seen = [-1.0]

    def stands_still() -> bool:
        seen.append(server.metric("nv_inference_request_success", model="ensemble"))
        time.sleep(0.3)
        return seen[-1] == seen[-2]

    wait_for(stands_still, what="the end of what was asked before")
    return seen[-1]


def test_warming_up_asks_everything_so_often(null_server: Server) -> None:
    items = [SmokeItem("b", prompt=f"warm {n}", max_tokens=2) for n in range(6)]
    before = _successes_at_rest(null_server)
    result = warm_up(null_server.grpc, "ensemble", items, concurrency=3, rounds=3)
    assert (result.asked, result.errors) == (18, ())
    assert _successes_at_rest(null_server) - before == 18


def test_a_model_is_as_fast_as_itself(server: Server) -> None:
    compared = compare_ttft(server.grpc, "ensemble", "ensemble", read_smoke(SHIPPED), rounds=2)
    assert len(compared.old_s) == len(compared.new_s) == 48
    assert compared.low <= compared.ratio <= compared.high
    assert not compared.is_slower_than(1.3)


def test_a_model_that_gives_no_answer_is_named(server: Server) -> None:
    with pytest.raises(OperatorError, match="ensemble@none: 'a' was not answered: NotFound"):
        compare_ttft(server.grpc, "ensemble", "ensemble@none", [SmokeItem("b", prompt="a")])
