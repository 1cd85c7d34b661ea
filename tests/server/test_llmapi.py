"""The names of NVIDIA's LLM API model."""

import pytest

from raw import Raw, ask
from support import wait_for
from trireme_runtime.contract import Code, Refusal

PROMPT = ask("Count from 1 to 60.")


def test_it_answers_as_the_ensemble_does(raw: Raw) -> None:
    theirs = raw.one("llmapi", text_input=PROMPT, sampling_param_max_tokens=40)
    ours = raw.one(text_input=PROMPT, max_tokens=40)
    assert theirs["text_output"][0] == ours["text_output"][0]
    assert theirs["finish_reason"][0] == ours["finish_reason"][0] == "length"


def test_without_max_tokens_the_context_is_the_limit(raw: Raw) -> None:
    assert raw.one("llmapi", text_input=PROMPT)["finish_reason"][0] == "stop"


def test_sampling_streaming_and_what_is_returned(raw: Raw) -> None:
    pieces = raw.stream(
        "llmapi",
        text_input=PROMPT,
        streaming=True,
        sampling_param_best_of=1,
        sampling_param_temperature=3.0,
        sampling_param_top_k=50,
        sampling_param_top_p=0.9,
        sampling_param_frequency_penalty=0.5,
        sampling_param_presence_penalty=0.5,
        sampling_param_max_tokens=30,
        sampling_param_seed=9,
        sampling_param_exclude_input_from_output=True,
        sampling_param_return_perf_metrics=True,
        return_finish_reason=True,
        return_stop_reason=True,
        return_cumulative_logprob=True,
    )
    ours = raw.one(
        text_input=PROMPT,
        temperature=3.0,
        top_k=50,
        top_p=0.9,
        frequency_penalty=0.5,
        presence_penalty=0.5,
        max_tokens=30,
        seed=9,
        return_log_probs=True,
    )
    assert "".join(piece["text_output"][0] for piece in pieces) == ours["text_output"][0]
    assert pieces[-1]["cumulative_logprob"] == pytest.approx(ours["cum_log_probs"], abs=1e-3)
    assert pieces[-1]["kv_cache_reused_block"][0] >= 0
    assert pieces[-1]["first_token_time_ns"][0] > 0


def test_stop_words(raw: Raw) -> None:
    answer = raw.one("llmapi", text_input=PROMPT, sampling_param_max_tokens=90, sampling_param_stop=["zz", "9 10"])
    assert (answer["text_output"][0], answer["stop_reason"][0]) == ("1 2 3 4 5 6 7 8 ", "9 10")


def test_stop_ends_the_request_of_the_same_id(raw: Raw) -> None:
    def is_stopped() -> bool:
        """Unless it had come to its end before, as it may on a busy machine."""
        call = raw.start("llmapi", "theirs", text_input=ask("Count from 1 to 60."), streaming=True)
        next(call)
        try:
            raw.stream("llmapi", "theirs", text_input="x", stop=True)
        except Refusal as refusal:
            assert refusal.code is Code.NOT_FOUND
            return False
        return bool([response.infer_response.outputs for response in call])

    wait_for(is_stopped, 60, "a request that is stopped")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"lora_name": "x"}, "lora_name 'x' is not supported by the engine openvino"),
        ({"sampling_param_best_of": 3}, "best_of 3 is not supported by the engine openvino"),
        ({"sampling_param_top_p": 2.0}, "top_p is 2"),
    ],
)
def test_what_cannot_be_honoured_is_refused(raw: Raw, values: dict[str, object], words: str) -> None:
    with pytest.raises(Refusal, match=words):
        raw.one("llmapi", text_input="x", sampling_param_max_tokens=4, **values)
