from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from trireme_runtime.contract import Code, Refusal
from trireme_runtime.engines.base import EngineLimits, Sampling
from trireme_runtime.requests import (
    Defaults,
    GenerationRequest,
    SamplingDefaults,
    check_sampling_defaults,
    parse_generation,
)
from trireme_runtime.settings import SAMPLING_DEFAULTS

LIMITS = EngineLimits(vocab_size=512, max_context_tokens=64, kv_cache_tokens=1024, max_num_seqs=8)
HONOURED = frozenset(
    {"temperature", "runtime_top_k", "runtime_top_p", "seed", "end_id", "min_tokens", "repetition_penalty"}
)


def parse(**changes: Any) -> Any:
    tensors = {
        "input_ids": np.array([[1, 2, 3]], np.int32),
        "request_output_len": np.array([[8]], np.int32),
        **{name: np.array([[value]]) if np.isscalar(value) else value for name, value in changes.items()},
    }
    return parse_generation(
        {name: value for name, value in tensors.items() if value is not None}, Defaults(2), LIMITS, HONOURED, "openvino"
    )


def test_nothing_said_is_greedy() -> None:
    request = parse()
    assert request.sampling.temperature == 0
    assert (request.input_ids, request.max_new_tokens, request.end_id) == ((1, 2, 3), 8, 2)


@pytest.mark.parametrize(
    "changes", [{"temperature": 0.0}, {"temperature": 1.0, "runtime_top_k": 1}, {"runtime_top_p": 0.0}]
)
def test_temperature_0_and_top_k_1_are_greedy(changes: dict[str, Any]) -> None:
    assert parse(**changes).sampling.temperature == 0


@pytest.mark.parametrize("changes", [{"temperature": 0.5}, {"runtime_top_k": 4}, {"runtime_top_p": 0.9}])
def test_a_sampling_parameter_samples(changes: dict[str, Any]) -> None:
    assert parse(**changes).sampling.temperature > 0


def test_max_tokens_is_cut_to_what_the_context_leaves() -> None:
    assert parse(request_output_len=1000).max_new_tokens == 61


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"request_output_len": 0}, ["max_tokens", "0", "1"]),
        ({"request_output_len": -5}, ["max_tokens", "-5", "1"]),
        ({"request_output_len": None}, ["max_tokens", "required"]),
        ({"temperature": float("nan")}, ["temperature", "nan", "0"]),
        ({"temperature": float("inf")}, ["temperature", "inf"]),
        ({"temperature": -0.1}, ["temperature", "-0.1", "0"]),
        ({"runtime_top_p": 1.5}, ["top_p", "1.5", "0 to 1"]),
        ({"runtime_top_k": -1}, ["top_k", "-1", "0"]),
        ({"input_ids": np.ones((1, 64), np.int32)}, ["64 tokens", "63"]),
        ({"input_ids": np.ones((2, 3), np.int32)}, ["input_ids", "[2, 3]", "batch size"]),
        ({"input_lengths": 2}, ["input_lengths", "2", "3"]),
        ({"beam_width": 4}, ["beam_width", "4", "openvino"]),
        ({"min_tokens": 9}, ["min_tokens", "9", "8"]),
        ({"repetition_penalty": 0.0}, ["repetition_penalty", "0", "0.001"]),
        ({"lora_task_id": 1}, ["lora_task_id", "1", "openvino"]),
        ({"stop_strings": np.array([[b"\xff"]], object)}, ["stop_words", "UTF-8", "0xff"]),
        ({"bad_strings": np.array([[b"x"]], object)}, ["bad_words", "openvino"]),
    ],
)
def test_a_refusal_names_tensor_value_and_limit(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(Refusal) as caught:
        parse(**changes)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert all(word in caught.value.message for word in words), caught.value.message


@pytest.mark.parametrize(
    "changes",
    [
        {"beam_width": 1},
        {"num_return_sequences": 1},
        {"repetition_penalty": 1.0},
        {"bad_strings": np.array([[b""]], object)},
        {"return_log_probs": False},
        {"pad_id": 3},
    ],
)
def test_values_that_ask_for_nothing_are_taken(changes: dict[str, Any]) -> None:
    assert parse(**changes) == parse()


@pytest.mark.parametrize("changes", [{"end_id": -1}])
def test_end_id_minus_1_never_ends(changes: dict[str, Any]) -> None:
    assert parse(**changes).end_id is None


EVERYTHING = HONOURED | {"presence_penalty", "frequency_penalty", "beam_width", "guided_decoding_guide_type"}


def parse_with(defaults: SamplingDefaults, **changes: Any) -> GenerationRequest:
    tensors = {name: np.array([[value]]) for name, value in changes.items()}
    tensors.setdefault("input_ids", np.array([[1, 2, 3]], np.int32))
    tensors.setdefault("request_output_len", np.array([[8]], np.int32))
    honoured = EVERYTHING | {"guided_decoding_guide"}
    return parse_generation(tensors, Defaults(2, sampling=defaults), LIMITS, honoured, "openvino")


ALL_DEFAULTS = SamplingDefaults(0.7, 0.9, 40, 1.1, 0.5, -0.5)


def test_sampling_defaults_hold_where_the_client_sends_nothing() -> None:
    sampling = parse_with(ALL_DEFAULTS).sampling
    assert sampling == Sampling(0.7, 40, 0.9, None, 1.1, 0.5, -0.5)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"seed": 5}, {"seed": 5}),
        ({"temperature": 0.2}, {"temperature": 0.2}),
        ({"runtime_top_p": 0.5}, {"top_p": 0.5}),
        ({"runtime_top_p": 0.0}, {"top_p": 1.0}),
        ({"runtime_top_k": 0}, {"top_k": 0}),
        ({"repetition_penalty": 1.0}, {"repetition_penalty": 1.0}),
        ({"presence_penalty": 0.0, "frequency_penalty": 0.0}, {"presence_penalty": 0.0, "frequency_penalty": 0.0}),
    ],
)
def test_what_a_client_sends_goes_before_its_default_alone(sent: dict[str, Any], expected: dict[str, Any]) -> None:
    assert parse_with(ALL_DEFAULTS, **sent).sampling == replace(parse_with(ALL_DEFAULTS).sampling, **expected)


@pytest.mark.parametrize("sent", [{"temperature": 0.0}, {"runtime_top_k": 1}, {"runtime_top_k": 1, "seed": 3}])
def test_a_client_that_asks_for_greedy_gets_it_whatever_the_defaults(sent: dict[str, Any]) -> None:
    assert parse_with(ALL_DEFAULTS, **sent).sampling.temperature == 0


@pytest.mark.parametrize(
    ("defaults", "temperature"),
    [
        (SamplingDefaults(temperature=0.0, top_p=0.9), 0.0),
        (SamplingDefaults(temperature=0.7, top_k=1), 0.0),
        (SamplingDefaults(top_p=0.9), 1.0),
        (SamplingDefaults(top_k=5), 1.0),
        (SamplingDefaults(repetition_penalty=1.2), 0.0),
    ],
)
def test_defaults_mean_what_they_would_if_a_client_sent_them(defaults: SamplingDefaults, temperature: float) -> None:
    assert parse_with(defaults).sampling.temperature == temperature


def test_a_beam_search_takes_no_defaults() -> None:
    assert parse_with(ALL_DEFAULTS, beam_width=4).sampling == Sampling(beam_width=4)


def test_a_beam_search_is_refused_what_the_client_itself_sends() -> None:
    with pytest.raises(Refusal, match="a beam search cannot be sampled"):
        parse_with(ALL_DEFAULTS, beam_width=4, temperature=0.5)


def test_a_guide_goes_together_with_defaults() -> None:
    request = parse_with(ALL_DEFAULTS, guided_decoding_guide_type=b"regex", guided_decoding_guide=b"a+")
    assert request.guide is not None
    assert request.sampling.temperature == 0.7


@pytest.mark.parametrize(
    ("defaults", "words"),
    [
        (SamplingDefaults(temperature=0.7), "'default_temperature' has the value '0.7'; the engine null does not"),
        (SamplingDefaults(top_k=40), "'default_top_k' has the value '40'; the engine null does not honour it"),
        (SamplingDefaults(repetition_penalty=1.1), "'default_repetition_penalty' has the value '1.1'"),
    ],
)
def test_a_default_that_the_engine_does_not_honour_is_an_error(defaults: SamplingDefaults, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_sampling_defaults(defaults, frozenset(), "null")


def test_a_default_that_asks_for_nothing_goes_with_any_engine() -> None:
    neutral = SamplingDefaults(repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0)
    check_sampling_defaults(neutral, frozenset(), "null")
    check_sampling_defaults(ALL_DEFAULTS, EVERYTHING, "openvino")


def test_every_sampling_default_has_limits_that_clients_have_too() -> None:
    assert list(vars(SamplingDefaults())) == list(SAMPLING_DEFAULTS)
    for name, limits in SAMPLING_DEFAULTS.items():
        for value in limits:
            assert parse_with(SamplingDefaults(**{name: int(value) if name == "top_k" else value})).sampling
