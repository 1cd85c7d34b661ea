"""Several answers to one prompt: samples, and the beams of a search."""

from typing import Any

import numpy as np
import pytest

from raw import Raw, ask
from trireme_client import Client

RANDOM = {"text_input": ask("Repeat: xyz"), "max_tokens": 12, "temperature": 8.0}


def test_several_samples_come_in_one_answer(raw: Raw) -> None:
    answer = raw.one(**RANDOM, seed=5, num_return_sequences=4)
    assert answer["text_output"].shape == answer["finish_reason"].shape == (4,)
    assert len(set(answer["text_output"])) > 1
    assert answer["sequence_index"][0] == 0


def test_a_seed_gives_each_sample_a_seed_of_its_own(raw: Raw) -> None:
    answer = raw.one(**RANDOM, seed=5, num_return_sequences=3)
    alone = [raw.one(**RANDOM, seed=seed)["text_output"][0] for seed in (5, 6, 7)]
    assert list(answer["text_output"]) == alone
    assert raw.one(**RANDOM, num_return_sequences=3)["text_output"].tolist() != answer["text_output"].tolist()


@pytest.mark.alone
def test_the_same_seed_gives_the_same_text_in_a_busy_batch(raw: Raw) -> None:
    quiet = raw.one(**RANDOM, seed=77)["text_output"][0]
    noise = [raw.start("ensemble", text_input=ask("Count from 1 to 60."), max_tokens=300) for _ in range(24)]
    busy = [raw.start("ensemble", **RANDOM, seed=77) for _ in range(8)]
    texts = {outputs["text_output"][0] for call in busy for outputs in _answers(call)}
    assert texts == {quiet}
    for call in noise:
        call.cancel()


def _answers(call: object) -> list[dict[str, np.ndarray]]:
    from raw import read

    return list(read(call))


def test_several_samples_stream_under_their_index(raw: Raw) -> None:
    whole = raw.one(**RANDOM, seed=5, num_return_sequences=3)
    pieces = raw.stream(**RANDOM, seed=5, num_return_sequences=3, stream=True)
    assert all(piece["text_output"].shape == (1,) for piece in pieces)
    texts = ["", "", ""]
    for piece in pieces:
        texts[piece["sequence_index"][0]] += piece["text_output"][0]
    assert texts == list(whole["text_output"])
    assert sum("finish_reason" in piece and bool(piece["finish_reason"][0]) for piece in pieces) == 3
    assert pieces[-1]["num_output_tokens"][0] == whole["num_output_tokens"][0]


def test_stop_words_cut_each_sample(raw: Raw) -> None:
    free = raw.one(**RANDOM, seed=5, num_return_sequences=4)
    cut = raw.one(**RANDOM, seed=5, num_return_sequences=4, stop_words=["e", "a"])
    for before, after, reason in zip(free["text_output"], cut["text_output"], cut["stop_reason"], strict=True):
        first = min((before.find(stop) for stop in "ea" if stop in before), default=len(before))
        assert after == before[:first]
        assert reason == (before[first] if first < len(before) else "")


def test_beams_come_best_first(raw: Raw) -> None:
    greedy = raw.one(text_input=ask("Sort: 9 3 7 1"), max_tokens=12)
    beams = raw.one(text_input=ask("Sort: 9 3 7 1"), max_tokens=12, beam_width=4, return_log_probs=True)
    assert beams["text_output"].shape == (4,)
    assert len(set(beams["text_output"])) == 4
    assert beams["text_output"][0] == greedy["text_output"][0]
    assert beams["cum_log_probs"][0] == max(beams["cum_log_probs"])
    two = raw.one(text_input=ask("Sort: 9 3 7 1"), max_tokens=12, beam_width=4, num_return_sequences=2)
    assert list(two["text_output"]) == list(beams["text_output"][:2])


def test_beams_with_streaming_and_what_clients_send_along(raw: Raw) -> None:
    values = {"text_input": ask("Sort: 9 3 7 1"), "max_tokens": 12, "beam_width": 2, "temperature": 1.0, "top_p": 0.0}
    whole = raw.one(**values, length_penalty=1.0)["text_output"]
    pieces = raw.stream(**values, stream=True)
    assert [piece["text_output"][0] for piece in pieces] == list(whole)
    assert [piece["sequence_index"][0] for piece in pieces] == [0, 1]


def test_stop_words_cut_beams_too(raw: Raw) -> None:
    beams = raw.one(text_input=ask("Sort: 9 3 7 1"), max_tokens=12, beam_width=2, stop_words=["7"])
    assert (beams["text_output"][0], beams["stop_reason"][0]) == ("1 3 ", "7")


@pytest.mark.alone
def test_many_beams_beside_many_streams(raw: Raw) -> None:
    alone = raw.one(text_input=ask("Reverse: stream"), max_tokens=20, beam_width=6)["text_output"].tolist()
    calls = [raw.start("ensemble", text_input=ask("Reverse: stream"), max_tokens=20, beam_width=6) for _ in range(12)]
    others = [raw.start("ensemble", text_input=ask("Count from 1 to 60."), max_tokens=300) for _ in range(12)]
    assert all(answer["text_output"].tolist() == alone for call in calls for answer in _answers(call))
    assert len({answer["text_output"][0] for call in others for answer in _answers(call)}) == 1


@pytest.mark.parametrize("extra", [{}, {"num_return_sequences": 3, "temperature": 1.0}, {"beam_width": 3}])
def test_log_probs_belong_to_the_ids(raw: Raw, extra: dict[str, float]) -> None:
    answer = raw.one(text_input=ask("Sort: 9 3 7 1"), max_tokens=6, return_log_probs=True, **extra)
    log_probs = answer["output_log_probs"]
    assert log_probs.shape == (answer["text_output"].size, 6)
    assert (log_probs <= 0).all()
    assert answer["cum_log_probs"] == pytest.approx(log_probs.sum(axis=1), abs=1e-4)


def test_log_probs_stream_with_their_pieces(raw: Raw) -> None:
    values = {"text_input": ask("Count from 1 to 9."), "max_tokens": 60, "return_log_probs": True, "temperature": 3.0}
    whole = raw.one(**values, seed=3)
    pieces = raw.stream(**values, seed=3, stream=True)
    assert len(pieces) > 2
    joined = np.concatenate([piece["output_log_probs"][0] for piece in pieces])
    assert joined == pytest.approx(whole["output_log_probs"][0], abs=1e-4)
    assert pieces[-1]["cum_log_probs"] == pytest.approx(whole["cum_log_probs"], abs=1e-3)
    assert "output_log_probs" not in raw.one(text_input="x", max_tokens=2)


@pytest.mark.parametrize("extra", [{}, {"n": 3, "temperature": 1.0, "seed": 4}, {"beam_width": 2}, {"echo": True}])
def test_the_tokens_of_the_log_probs_are_the_text(client: Client, extra: dict[str, Any]) -> None:
    prompt = ask("Repeat: 你好 👋 Grüße")
    with client.stream(prompt=prompt, max_tokens=20, log_probs=True, **extra) as stream:
        list(stream)
    for completion in (stream.completion, client.generate(prompt=prompt, max_tokens=20, log_probs=True, **extra)):
        for answer in completion.answers:
            assert answer.tokens is not None
            assert answer.log_probs is not None
            assert len(answer.tokens) == len(answer.log_probs)
            assert answer.text.endswith(b"".join(answer.tokens).decode("utf-8", "replace"))
            # A character of several tokens has none of them whole.
            assert any(len(token) == 1 and token[0] > 0x7F for token in answer.tokens)
