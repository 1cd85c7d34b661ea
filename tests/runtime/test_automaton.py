from hypothesis import given
from hypothesis import strategies as st

from trireme_runtime.automaton import WordAutomaton
from trireme_runtime.detokenizing import held_length

WORDS = st.lists(st.text("ab你", min_size=1, max_size=5), min_size=1, max_size=6)


@given(words=WORDS, text=st.text("ab你x", max_size=30))
def test_it_finds_every_word_where_it_ends_and_knows_what_may_begin_one(words: list[str], text: str) -> None:
    search = WordAutomaton(words)
    state = 0
    for end, character in enumerate(text, 1):
        state = search.step(state, character)
        complete = list(search.ending_at(state))
        assert complete == sorted((word for word in set(words) if text[:end].endswith(word)), key=len, reverse=True)
        if not complete:
            assert search.depth(state) == held_length(text[:end], words)


@given(words=WORDS)
def test_its_steps_are_all_that_do_not_lead_to_the_start(words: list[str]) -> None:
    search = WordAutomaton(words)
    for state in range(len(search)):
        assert dict(search.steps(state)) == {c: t for c in "ab你x" if (t := search.step(state, c))}
