"""What a request is told about itself: times, counts, and what came from the prefix cache."""

import random

from raw import Raw, ask
from support import Server, wait_for

TIMES = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")


def test_times_are_in_order(raw: Raw) -> None:
    answer = raw.one(text_input=ask("Count from 1 to 60."), max_tokens=300, return_perf_metrics=True)
    times = [int(answer[name][0]) for name in TIMES]
    assert times == sorted(times)
    assert times[0] > 0
    assert times[2] < times[3]
    assert answer["total_draft_tokens"][0] == answer["acceptance_rate"][0] == 0


def test_times_are_true_for_an_answer_that_a_stop_word_ended(raw: Raw) -> None:
    for values in ({}, {"num_return_sequences": 3}, {"stream": True}):
        pieces = raw.stream(
            text_input=ask("Count from 1 to 60."),
            max_tokens=300,
            stop_words=["9 10"],
            return_perf_metrics=True,
            **values,
        )
        times = [int(pieces[-1][name][0]) for name in TIMES]
        assert times == sorted(times)
        assert times[0] > 0
        assert pieces[-1]["kv_cache_alloc_total_blocks"][0] > 0


def test_times_come_with_the_last_piece_of_a_stream_and_only_if_asked_for(raw: Raw) -> None:
    pieces = raw.stream(text_input=ask("Count from 1 to 9."), max_tokens=60, stream=True, return_perf_metrics=True)
    assert [TIMES[0] in piece for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert TIMES[0] not in raw.one(text_input="x", max_tokens=1)


def test_reused_prompt_tokens_are_counted(server: Server, raw: Raw) -> None:
    rng = random.Random()
    prompt = "".join(rng.choice("abcdefgh") for _ in range(300))

    def reused(text: str) -> tuple[int, int, int]:
        answer = raw.one(text_input=text, max_tokens=2, return_perf_metrics=True)
        names = ("num_reused_tokens", "kv_cache_reused_blocks", "kv_cache_alloc_new_blocks")
        assert answer["kv_cache_alloc_total_blocks"][0] == answer[names[1]][0] + answer[names[2]][0]
        return tuple(int(answer[name][0]) for name in names)  # type: ignore[return-value]

    before = server.metric("trireme_reused_prompt_tokens_total")
    assert reused(prompt)[0] < 32
    tokens, blocks, new = reused(prompt)
    assert tokens >= 96
    assert blocks == -(-tokens // 32)
    assert new <= 1
    assert 32 <= reused(prompt[:150] + "zzz" + prompt[150:])[0] < tokens
    wait_for(lambda: server.metric("trireme_reused_prompt_tokens_total") - before >= tokens)


def test_length_is_the_reason_when_max_tokens_or_the_context_ran_out(raw: Raw) -> None:
    assert raw.one(text_input=ask("Count from 1 to 60."), max_tokens=5)["finish_reason"][0] == "length"
    long = raw.one(text_input="x y " * 500, max_tokens=5000, ignore_eos=True)
    assert long["finish_reason"][0] == "length"
    assert long["num_input_tokens"][0] + long["num_output_tokens"][0] == 2048
