"""Prompts of a file, and those that are made up."""

from pathlib import Path

import pytest

from trireme_load.errors import SettingError
from trireme_load.prompts import Lengths, Prompt, Source, WordCost, read_prompts


def test_lines_of_a_text_file_are_prompts(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("one\n\ntwo\n", encoding="utf-8")
    assert [prompt.text for prompt in read_prompts(tmp_path / "p.txt")] == ["one", "two"]


def test_json_lines_hold_prompts_and_chats_with_their_max_tokens(tmp_path: Path) -> None:
    lines = ['{"prompt": "a", "max_tokens": 7}', '{"messages": [{"role": "user", "content": "b"}]}']
    (tmp_path / "p.jsonl").write_text("\n".join(lines), encoding="utf-8")
    first, second = read_prompts(tmp_path / "p.jsonl")
    assert first == Prompt("a", max_tokens=7)
    assert second.text is None and second.messages == ({"role": "user", "content": "b"},)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 1: no JSON"),
        ("[1]", "line 1: a prompt is"),
        ('{"text": "a"}', "line 1: a prompt is"),
        ('{"prompt": "a", "messages": []}', "both given"),
        ('{"prompt": 3}', "prompt is 3"),
        ('{"prompt": "a", "max_tokens": 0}', "max_tokens is 0"),
        ('{"prompt": "a", "max_tokens": true}', "max_tokens is True"),
        ('{"prompt": "a", "temperature": 1}', "'temperature' is not known"),
        ('{"messages": [{"role": "user"}]}', "messages is no list"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "p.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(SettingError, match=r"p\.jsonl") as caught:
        list(read_prompts(tmp_path / "p.jsonl"))
    assert words in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_a_prompt_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.txt").write_bytes(content)
    with pytest.raises(SettingError, match="hold no prompt"):
        Source.parse(str(tmp_path / "p.txt"))


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe")
    for name, words in (("none.txt", "No such file"), ("p.txt", "not UTF-8")):
        with pytest.raises(SettingError, match=words):
            Source.parse(str(tmp_path / name))


@pytest.mark.parametrize("text", ["128", "128/64/2", "0/4", "a/b", "5-2/4", "1-/4", "128/-4"])
def test_lengths_that_make_no_sense_are_named(text: str) -> None:
    with pytest.raises(SettingError, match=r"synthetic|length"):
        Lengths.parse(text)


def test_made_up_prompts_are_the_same_for_the_same_seed_and_have_the_length_that_was_wanted() -> None:
    source = Source.parse("synthetic:64-256/16")
    cost = WordCost(fixed=4, per_word=2)
    first, again, other = (source.prompts(cost, seed) for seed in ("1", "1", "2"))
    made = [first.next() for _ in range(50)]
    assert made == [again.next() for _ in range(50)]
    assert made != [other.next() for _ in range(50)]
    lengths = [4 + 2 * (len((prompt.text or "").split()) - 1) for prompt in made]
    assert 63 <= min(lengths) < 100 and 220 < max(lengths) <= 257
    assert {prompt.max_tokens for prompt in made} == {16}
    assert len({prompt.text for prompt in made}) == 50


def test_the_cost_of_a_word_is_what_the_server_counts() -> None:
    cost = WordCost.measured(lambda text: 7 + 3 * len(text.split()))
    assert (cost.fixed, cost.per_word) == (10, 3)
    assert cost.words_for(307) == 100


def test_a_server_that_counts_nothing_leaves_the_usual_cost() -> None:
    assert WordCost.measured(lambda _: 0) == WordCost()


def test_max_tokens_goes_before_what_a_file_says(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a", "max_tokens": 7}', encoding="utf-8")
    assert Source.parse(str(tmp_path / "p.jsonl"), 3).choices[0].max_tokens == 3
