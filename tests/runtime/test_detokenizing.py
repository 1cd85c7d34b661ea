from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trireme_runtime.detokenizing import REPLACEMENT, Detokenizer

SAMPLES = (
    "What is 37 + 58?",
    "你好 👋 Grüße",
    "नमस्ते दुनिया",
    "مرحبا العالم",
    "👨‍👩‍👧 🏳️‍🌈 👍🏽",
    '{"a":   [1, 2,\n\t3]}',
    "a  b     c",
)


def stream(detokenizer: Detokenizer, ids: list[int], cuts: list[int]) -> list[str]:
    """The texts of `ids` sent in pieces of the sizes `cuts`, the rest at the end."""
    texts, sent = [], 0
    for size in [*cuts, len(ids)]:
        end = min(len(ids), sent + size)
        start = detokenizer.window_start(ids, sent)
        texts.append(detokenizer.delta(ids[start:sent], ids[sent:end], final=end == len(ids)))
        sent = end
        if sent == len(ids):
            break
    return texts


@pytest.fixture(scope="module")
def detokenizer(tokenizer: Any) -> Detokenizer:
    return Detokenizer(tokenizer)


@given(text=st.one_of(st.sampled_from(SAMPLES), st.text(max_size=60)), cuts=st.lists(st.integers(1, 9), max_size=200))
def test_stream_equals_whole_for_valid_text(
    detokenizer: Detokenizer, tokenizer: Any, text: str, cuts: list[int]
) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = stream(detokenizer, ids, cuts)
    assert "".join(pieces) == detokenizer.decode(ids)
    if REPLACEMENT not in text:
        assert not any(REPLACEMENT in piece for piece in pieces)


@given(ids=st.lists(st.integers(0, 511), min_size=1, max_size=80), cuts=st.lists(st.integers(1, 9), max_size=80))
def test_stream_equals_whole_for_random_ids(detokenizer: Detokenizer, ids: list[int], cuts: list[int]) -> None:
    assert "".join(stream(detokenizer, ids, cuts)) == detokenizer.decode(ids)


def test_window_begins_at_a_character(detokenizer: Detokenizer, tokenizer: Any) -> None:
    ids = tokenizer.encode("𓀀𓀁𓀂𓀃𓀄", add_special_tokens=False)
    for sent in range(len(ids)):
        start = detokenizer.window_start(ids, sent)
        assert not detokenizer.decode(ids[start:]).startswith(REPLACEMENT)
