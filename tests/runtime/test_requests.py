from typing import Any

import numpy as np
import pytest

from trireme_runtime.contract import Code, Refusal
from trireme_runtime.engines.base import EngineLimits
from trireme_runtime.requests import Defaults, parse_generation

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
