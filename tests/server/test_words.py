"""Stop words and bad words: matched on text, exactly."""

import random

import pytest

from raw import Raw, ask
from support import rounds
from trireme_runtime.contract import Refusal

SIXTY = ask("Count from 1 to 60.")


def test_64_stop_words_at_once(raw: Raw) -> None:
    """The earliest in the text wins, whatever its place in the list; the others are held back and let go again."""
    full = raw.one(text_input=SIXTY, max_tokens=300)["text_output"][0]
    rng = random.Random(3)
    for _ in range(rounds(6, 60)):
        begin = rng.randrange(20, len(full) - 10)
        hit = full[begin : begin + rng.randint(2, 8)]
        others = [f"{number} {number}" for number in range(10, 72)]
        words = [*others, hit, full[begin + 9 : begin + 14] + "#"]
        assert len(words) == 64
        rng.shuffle(words)
        expected = full[: full.index(hit)]
        pieces = raw.stream(text_input=SIXTY, max_tokens=300, stream=True, stop_words=words)
        whole = raw.one(text_input=SIXTY, max_tokens=300, stop_words=words)
        assert "".join(piece["text_output"][0] for piece in pieces) == expected
        for last in (pieces[-1], whole):
            assert (last["finish_reason"][0], last["stop_reason"][0]) == ("stop", hit)
        assert whole["text_output"][0] == expected


def test_a_stop_word_ends_the_generation_in_the_engine(raw: Raw) -> None:
    answer = raw.one(text_input=SIXTY, max_tokens=300, stop_words=["9 10"])
    assert answer["text_output"][0] == "1 2 3 4 5 6 7 8 "
    assert answer["num_output_tokens"][0] < 40


def test_stop_words_as_ids_are_taken_by_the_engine_model(raw: Raw) -> None:
    tokens = raw.unary("preprocessing", QUERY=SIXTY, STOP_WORDS_DICT=["12 1", "77"], REQUEST_OUTPUT_LEN=300)
    assert tokens["STOP_WORDS_IDS"].shape[0] == 2
    answer = raw.one(
        "tensorrt_llm",
        input_ids=tokens["INPUT_ID"].tolist(),
        request_output_len=int(tokens["REQUEST_OUTPUT_LEN"][0]),
        stop_words_list=tokens["STOP_WORDS_IDS"].tolist(),
    )
    assert answer["stop_reason"][0] == "12 1"


@pytest.mark.parametrize("words", [["7"], ["3 7"], ["1", "2", "3", "4", "9"], ["好", "👋"], ["\n", " "]])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_bad_words_do_not_come_up(raw: Raw, words: list[str], temperature: float) -> None:
    for question in ("Sort: 9 3 7 1", "Count from 1 to 20.", "Repeat: 你好 👋 a b"):
        values = {"text_input": ask(question), "max_tokens": 60, "seed": 4, "temperature": temperature}
        text = raw.one(**values, bad_words=words)["text_output"][0]
        assert not [word for word in words if word in text]
        endless = raw.one(**values, bad_words=words, ignore_eos=True)
        assert endless["finish_reason"][0] == "length"
        assert not [word for word in words if word in endless["text_output"][0]]


def test_bad_words_cross_tokens_and_leave_the_rest_alone(raw: Raw) -> None:
    free = raw.one(text_input=SIXTY, max_tokens=300)["text_output"][0]
    assert raw.one(text_input=SIXTY, max_tokens=300, bad_words=["77", "999"])["text_output"][0] == free
    text = raw.one(text_input=SIXTY, max_tokens=300, bad_words=["9 10"])["text_output"][0]
    assert text.startswith("1 2 3 4 5 6 7 8 9")
    assert "9 10" not in text


def test_min_tokens(raw: Raw) -> None:
    short = raw.one(text_input=ask("Reverse: abc"), max_tokens=60)
    assert short["num_output_tokens"][0] == 3
    longer = raw.one(text_input=ask("Reverse: abc"), max_tokens=60, min_tokens=20)
    assert longer["num_output_tokens"][0] >= 20


def test_a_broken_list_of_ids_is_refused(raw: Raw) -> None:
    with pytest.raises(Refusal, match="stop_words_list"):
        raw.one("tensorrt_llm", input_ids=[5, 6], request_output_len=4, stop_words_list=[[5, 6], [9, -1]])
