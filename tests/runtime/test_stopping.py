from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trireme_runtime.automaton import WordAutomaton
from trireme_runtime.detokenizing import Detokenizer, held_length
from trireme_runtime.stopping import StopMatcher, cut_at_stop


@pytest.fixture(scope="module")
def detokenizer(tokenizer: Any) -> Detokenizer:
    return Detokenizer(tokenizer)


@pytest.mark.parametrize(
    ("text", "stops", "held"),
    [
        ("abc", ["cd"], 1),
        ("abcd", ["cde"], 2),
        ("abc", ["x"], 0),
        ("aaa", ["aaaa"], 3),
        ("ab", ["b", "bc"], 1),
        ("", ["a"], 0),
    ],
)
def test_the_end_that_may_become_a_stop_string_is_held(text: str, stops: list[str], held: int) -> None:
    assert held_length(text, stops) == held


@given(
    text=st.text(alphabet="ab你\n ", min_size=1, max_size=40),
    stops=st.lists(st.text(alphabet="ab你\n ", min_size=1, max_size=5), min_size=1, max_size=4),
    chunk=st.integers(1, 7),
)
def test_the_text_is_cut_exactly_before_the_first_stop_string(
    detokenizer: Detokenizer, tokenizer: Any, text: str, stops: list[str], chunk: int
) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    matcher = StopMatcher(WordAutomaton(stops), detokenizer)
    sent, used, stop = 0, len(ids), ""
    pieces = []

    def send(end: int, final: bool) -> None:
        nonlocal sent
        start = detokenizer.window_start(ids, sent)
        pieces.append(cut_at_stop(detokenizer.delta(ids[start:sent], ids[sent:end], final), stop))
        sent = end

    for first in range(0, len(ids), chunk):
        hit = matcher.feed(ids[first : first + chunk])
        if hit is not None:
            used, stop = hit.ids_used, hit.stop
            break
        send(matcher.releasable, final=False)
    send(used, final=True)

    positions = [text.find(candidate) for candidate in stops if candidate in text]
    # The earliest completed stop string wins; its text is cut where it begins.
    ends = [text.find(candidate) + len(candidate) for candidate in stops if candidate in text]
    if not positions:
        assert stop == ""
        assert "".join(pieces) == text
    else:
        assert stop in stops
        assert "".join(pieces) == text[: text.find(stop)]
        shortest = detokenizer.decode(ids[: used - 1])
        assert not any(candidate in shortest.rstrip("�") for candidate in stops)
        assert text.find(stop) + len(stop) <= len(detokenizer.decode(ids[:used]))
        assert min(ends) <= len(detokenizer.decode(ids[:used]))


def test_a_stop_string_inside_one_token_is_found(detokenizer: Detokenizer, tokenizer: Any) -> None:
    ids = tokenizer.encode("x     y", add_special_tokens=False)
    hit = StopMatcher(WordAutomaton(["  "]), detokenizer).feed(ids)
    assert hit is not None
    assert hit.stop == "  "
