"""Streams equal the whole text, over four kinds of tokenizer, random ids, random texts and random chunkings."""

from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import CHECKPOINT
from tokenizers_built import KINDS, LINES
from trireme_runtime.detokenizing import REPLACEMENT, Detokenizer
from trireme_runtime.tokenizing import load_tokenizer

ALL_KINDS = ("reference", *KINDS)
CUTS = st.lists(st.integers(1, 9), max_size=120)
TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(LINES), max_size=3).map(" ".join),
    st.lists(st.sampled_from([" ", "'", " '", ".", " n't", "x", "  ", "👨‍👩‍👧", "你", "ا", "न"]), max_size=20).map(
        "".join
    ),
)


@cache
def built(kind: str) -> tuple[Any, Detokenizer]:
    tokenizer = load_tokenizer(CHECKPOINT) if kind == "reference" else KINDS[kind]()
    return tokenizer, Detokenizer(tokenizer)


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


def check(kind: str, ids: list[int], cuts: list[int]) -> None:
    tokenizer, detokenizer = built(kind)
    pieces = stream(detokenizer, ids, cuts)
    assert "".join(pieces) == detokenizer.decode(ids)
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    if REPLACEMENT not in whole:
        assert "".join(pieces) == whole
        assert not any(REPLACEMENT in piece for piece in pieces)


@pytest.mark.parametrize("kind", ALL_KINDS)
@given(text=TEXTS, cuts=CUTS)
def test_a_stream_of_text_equals_the_tokenizers_decode(kind: str, text: str, cuts: list[int]) -> None:
    check(kind, built(kind)[0].encode(text, add_special_tokens=False), cuts)


@pytest.mark.parametrize("kind", ALL_KINDS)
@given(data=st.data(), cuts=CUTS)
def test_a_stream_of_random_ids_equals_the_whole(kind: str, data: st.DataObject, cuts: list[int]) -> None:
    ids = data.draw(st.lists(st.integers(0, len(built(kind)[0]) - 1), min_size=1, max_size=80))
    check(kind, ids, cuts)


@pytest.mark.parametrize("kind", ["reference", "byte-level BPE", "Metaspace BPE with byte fallback"])
def test_a_window_begins_at_a_character(kind: str) -> None:
    tokenizer, detokenizer = built(kind)
    ids = tokenizer.encode("𓀀𓀁𓀂𓀃𓀄", add_special_tokens=False)
    for sent in range(len(ids)):
        start = detokenizer.window_start(ids, sent)
        assert not detokenizer.decode(ids[start:]).startswith(REPLACEMENT)


@pytest.mark.parametrize("kind", ["Metaspace BPE with byte fallback", "Unigram"])
def test_the_space_after_special_tokens_is_kept(kind: str) -> None:
    tokenizer, detokenizer = built(kind)
    words = tokenizer.encode("the drum is slow", add_special_tokens=False)
    ids = [*words, *[tokenizer.eos_token_id] * 10, *words]
    pieces = stream(detokenizer, ids, [len(words) + 10])
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True) == detokenizer.decode(ids)


@pytest.mark.parametrize("kind", ["reference", "byte-level BPE", "Metaspace BPE with byte fallback"])
@given(data=st.data(), cuts=CUTS)
def test_a_stream_of_broken_characters_equals_the_whole(kind: str, data: st.DataObject, cuts: list[int]) -> None:
    """Lead bytes without the rest, stray continuation bytes, and special ids among them."""
    tokenizer, _ = built(kind)
    ids = tokenizer.encode("你👋é", add_special_tokens=False)
    pool = [*ids, tokenizer.eos_token_id, *tokenizer.encode("a ", add_special_tokens=False)]
    check(kind, data.draw(st.lists(st.sampled_from(pool), min_size=1, max_size=60)), cuts)


def test_a_window_is_short_however_long_the_text_is() -> None:
    tokenizer, detokenizer = built("reference")
    ids = tokenizer.encode("你好 👋 Grüße " * 200, add_special_tokens=False)
    assert all(sent - detokenizer.window_start(ids, sent) <= 10 for sent in range(len(ids)))


@pytest.mark.parametrize("kind", ["reference", "byte-level BPE", "Metaspace BPE with byte fallback", "Unigram"])
@given(data=st.data())
def test_the_vocabularys_texts_join_to_the_text(kind: str, data: st.DataObject) -> None:
    """Apart from a space that the tokenizer drops at the beginning."""
    _, detokenizer = built(kind)
    texts = detokenizer.vocabulary()
    assert texts is not None
    ids = data.draw(st.lists(st.integers(0, detokenizer.vocab_size - 1), max_size=20))
    joined = b"".join(texts[index] for index in ids).decode("utf-8", "replace")
    decoded = detokenizer.decode(ids)
    if REPLACEMENT not in decoded:
        assert decoded in (joined, joined.removeprefix(" "))


def test_a_tokenizer_that_cleans_up_spaces_has_no_text_for_each_id() -> None:
    assert built("WordPiece with clean-up")[1].vocabulary() is None
