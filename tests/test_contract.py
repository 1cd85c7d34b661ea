"""Nothing that a client may send is ignored, and the reference says what becomes of it."""

from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from raw import Raw
from support import ROOT
from trireme_ops.tensor_reference import ADAPTERS, TARGET, engine_name, render, treatment_of
from trireme_runtime.contract import SIGNATURES, Code, Refusal
from trireme_runtime.engines.base import EngineLimits
from trireme_runtime.requests import Defaults, Treatment, client_name, parse_generation, refuse_unsupported, treatment

LIMITS = EngineLimits(vocab_size=512, max_context_tokens=64, kv_cache_tokens=1024, max_num_seqs=8)


def declared(model: str, repository: str = "model_repository") -> list[str]:
    """The inputs that a config.pbtxt declares."""
    text = (ROOT / repository / model / "config.pbtxt").read_text(encoding="utf-8")
    return [tensor.name for tensor in text_format.Parse(text, model_config_pb2.ModelConfig()).input]


#: A value of each engine input that asks for something.
ASKING: dict[str, Any] = {
    "input_ids": np.array([[5, 6, 7]], np.int32),
    "input_lengths": np.array([[4]], np.int32),
    "request_output_len": np.array([[9]], np.int32),
    "runtime_top_k": np.array([[5]], np.int32),
    "best_of": np.array([[3]], np.int32),
    "runtime_top_p": np.array([[0.5]], np.float32),
    "len_penalty": np.array([[2.0]], np.float32),
    "streaming": np.array([[True]]),
    "stop": np.array([[True]]),
    "return_finish_reason": np.array([[True]]),
    "return_stop_reason": np.array([[True]]),
    "stop_strings": np.array([[b"x"]], object),
    "bad_strings": np.array([[b"x"]], object),
    "embedding_bias_words": np.array([[b"x"]], object),
    "embedding_bias_weights": np.array([[1.0]], np.float32),
    "embedding_bias": np.array([[1.0]], np.float32),
    "decoder_text_input": np.array([[b"x"]], object),
    "lora_name": np.array([[b"x"]], object),
    "lora_path": np.array([[b"x"]], object),
    "stop_words_list": np.array([[[5, 6], [2, -1]]], np.int32),
    "bad_words_list": np.array([[[5, 6], [2, -1]]], np.int32),
    "stream_key": np.array([[1]], np.uint64),
    "lora_id": np.array([[1]], np.uint64),
    "guided_decoding_guide_type": np.array([[b"json"]], object),
    "guided_decoding_guide": np.array([[b"x"]], object),
    "num_return_sequences": np.array([[2]], np.int32),
    "end_id": np.array([[7]], np.int32),
    "pad_id": np.array([[7]], np.int32),
    "min_tokens": np.array([[2]], np.int32),
    "beam_width": np.array([[2]], np.int32),
    "prompt_vocab_size": np.array([[2]], np.int32),
    "temperature": np.array([[0.5]], np.float32),
    "repetition_penalty": np.array([[1.5]], np.float32),
    "presence_penalty": np.array([[0.5]], np.float32),
    "frequency_penalty": np.array([[0.5]], np.float32),
    "seed": np.array([[7]], np.uint64),
    "prompt_table_extra_id": np.array([[7]], np.uint64),
    "lora_task_id": np.array([[7]], np.uint64),
    "exclude_input_in_output": np.array([[False]]),
    "return_log_probs": np.array([[True]]),
    "return_context_logits": np.array([[True]]),
    "return_generation_logits": np.array([[True]]),
    "return_perf_metrics": np.array([[True]]),
    "return_num_input_tokens": np.array([[True]]),
    "return_num_output_tokens": np.array([[True]]),
    "ignore_eos": np.array([[True]]),
    "prompt_embedding_table": np.ones((1, 2, 2), np.float16),
    "lora_weights": np.ones((1, 2, 2), np.float16),
    "lora_config": np.ones((1, 2, 3), np.int32),
    "priority": np.array([[1]], np.int32),
    "deadline_ms": np.array([[1]], np.int32),
}

#: Honoured by what the model does anyway, or before a generation is read (`stop` and `stream_key`).
WITHOUT_AN_EFFECT = {
    "pad_id": "no padding occurs",
    "return_num_input_tokens": "always returned",
    "return_num_output_tokens": "always returned",
    "return_finish_reason": "always returned",
    "return_stop_reason": "always returned",
    "stop": "handled before; tests/server/test_steps.py",
    "stream_key": "handled before; tests/server/test_unary.py",
}

BASE = {
    "input_ids": np.array([[5, 6]], np.int32),
    "request_output_len": np.array([[8]], np.int32),
    # So that what needs company has it.
    "temperature": np.array([[1.0]], np.float32),
}


def parsed(**changes: Any) -> Any:
    honoured = ADAPTERS["openvino"]
    return parse_generation({**BASE, **changes}, Defaults(2), LIMITS, honoured, "openvino", lambda ids: f"w{ids}")


def test_every_input_of_the_engine_model_has_a_value_here() -> None:
    assert ASKING.keys() == set(declared("tensorrt_llm")) == {tensor.name for tensor in SIGNATURES["tensorrt_llm"][0]}


@pytest.mark.parametrize("adapter", sorted(ADAPTERS))
@pytest.mark.parametrize("name", declared("tensorrt_llm"))
def test_an_input_of_the_engine_model_is_honoured_or_refused_by_name(name: str, adapter: str) -> None:
    if treatment(name, ADAPTERS[adapter]) is not Treatment.HONOURED:
        with pytest.raises(Refusal) as caught:
            refuse_unsupported({name: ASKING[name]}, ADAPTERS[adapter], adapter)
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert client_name(name) in caught.value.message
        assert adapter in caught.value.message
    elif name not in WITHOUT_AN_EFFECT:
        try:
            assert parsed(**{name: ASKING[name]}) != parsed()
        except Refusal as refusal:
            # Honoured, and refused because of what it is sent with here.
            assert client_name(name) in refusal.message, refusal


@pytest.mark.parametrize("ensemble", ["ensemble", "llmapi"])
def test_every_input_of_an_ensemble_reaches_a_step(ensemble: str) -> None:
    text = (ROOT / "ensembles" / ensemble / "config.pbtxt").read_text(encoding="utf-8")
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    mapped = {edge for step in config.ensemble_scheduling.step for edge in step.input_map.values()}
    assert set(declared(ensemble, "ensembles")) <= mapped


@pytest.mark.parametrize("model", ["ensemble", "ensemble_unary"])
def test_what_the_engine_cannot_honour_is_refused_by_the_server(raw: Raw, model: str) -> None:
    refused = [
        tensor.name
        for tensor in SIGNATURES["ensemble"][0]
        if treatment_of(tensor.name, "openvino") is not Treatment.HONOURED
    ]
    assert len(refused) > 8
    for name in refused:
        value = ASKING[engine_name(name)][0].tolist()
        with pytest.raises((Refusal, Exception)) as caught:
            if model == "ensemble":
                raw.one(text_input="x", max_tokens=2, **{name: value})
            else:
                raw.unary(model, text_input="x", max_tokens=2, **{name: value})
        message = str(caught.value)
        assert "INVALID_ARGUMENT" in message, name
        assert name in message
        assert "openvino" in message, message


def test_the_reference_is_up_to_date() -> None:
    assert TARGET.read_text(encoding="utf-8") == render(), "make docs"
