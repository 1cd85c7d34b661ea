"""Releases under their scoped names on a real server, and the public names as ensembles over one of them."""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from raw import Raw, Refusal, ask, connected, infer_request, outputs_of, read
from support import ROOT, Server, start_server, stop_server, wait_for
from trireme_ops.bench.root import NullModel, copy_repositories, use_null_engine
from trireme_ops.engines import prepare_engines
from trireme_ops.layout import Layout
from trireme_ops.releases.graphs import alias_config
from trireme_runtime.model_config import read_config
from views import LLM, HandMade, make_view

#: What differs from call to call.
OF_A_CALL = {"stream_key", "arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns"}


@pytest.fixture(scope="module")
def release_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """r7 is live: the committed versions and engine, with four sequences and two instances of preprocessing."""
    folder = tmp_path_factory.mktemp("releases")
    prepare_engines(Layout(ROOT))
    release = HandMade(Layout(ROOT), {"max_num_sequences": "4"}, {"preprocessing": 2}, {"temperature": "0"})
    root = make_view(folder / "root", {"r7": release}, "r7")
    running = start_server(folder, env={"TRIREME_ROOT": str(root.root)})
    yield running
    stop_server(running)


@pytest.fixture
def raw7(release_server: Server) -> Iterator[Raw]:
    with connected(release_server.grpc) as connection:
        yield connection


@pytest.fixture(scope="module")
def prompt(tokenizer: Any) -> list[int]:
    ids: list[int] = tokenizer.encode(ask("Count from 1 to 60."), add_special_tokens=False)
    return ids


def same(one: dict[str, NDArray[Any]], other: dict[str, NDArray[Any]]) -> None:
    """Fails unless both have the same tensors, but for what differs from call to call."""
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].shape == other[name].shape, name
        assert one[name].dtype == other[name].dtype, name
        if name not in OF_A_CALL:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def joined(answers: list[dict[str, NDArray[Any]]]) -> dict[str, list[Any]]:
    """What the chunks of a stream come to, however they were cut; by sequence."""
    told: dict[str, list[Any]] = {}
    for answer in answers:
        row = str(answer["sequence_index"][0] if "sequence_index" in answer else 0)
        for name in ("output_ids", "output_log_probs", "output_tokens"):
            if name in answer:
                told.setdefault(f"{name} {row}", []).extend(answer[name][0].tolist())
        pieces = {"output_ids", "output_log_probs", "output_tokens", "window_ids", "sequence_length"}
        for name in answer.keys() - pieces - OF_A_CALL:
            # Of the last chunk that has it. The tokens of all sequences are counted together, in the order they come.
            told[name if name == "num_output_tokens" else f"{name} {row}"] = answer[name].tolist()
        assert answer["sequence_length"].tolist() == [len(answer["output_ids"][0])]
    return told


REQUESTS: dict[str, dict[str, Any]] = {
    "ids": {"request_output_len": 9},
    "log-probs": {"request_output_len": 9, "return_log_probs": True},
    "several sequences": {"request_output_len": 6, "num_return_sequences": 3, "temperature": 1.0, "seed": 7},
    "all of both": {"request_output_len": 6, "num_return_sequences": 2, "return_log_probs": True},
    "beams": {"request_output_len": 4, "beam_width": 2},
    "a stop string": {"request_output_len": 100, "stop_strings": ["12"]},
    "an echo": {"request_output_len": 3, "exclude_input_in_output": False},
    "the end": {"request_output_len": 2000, "end_id": 226},
    "metrics": {"request_output_len": 4, "return_perf_metrics": True},
}


@pytest.mark.parametrize("kind", sorted(REQUESTS))
def test_the_engines_alias_gives_what_the_model_gives(raw7: Raw, prompt: list[int], kind: str) -> None:
    request = {"input_ids": prompt, "input_lengths": len(prompt), **REQUESTS[kind]}
    # Once more, so that both find the same in the cache.
    raw7.one("tensorrt_llm@r7", **request)
    direct = raw7.one("tensorrt_llm@r7", **request)
    same(raw7.one("tensorrt_llm", **request), direct)


@pytest.mark.parametrize("kind", sorted(REQUESTS.keys() - {"beams"}))
def test_the_engines_alias_streams_what_the_model_streams(raw7: Raw, prompt: list[int], kind: str) -> None:
    request = {"input_ids": prompt, "input_lengths": len(prompt), "streaming": True, **REQUESTS[kind]}
    raw7.stream("tensorrt_llm@r7", **request)
    direct = raw7.stream("tensorrt_llm@r7", **request)
    alias = raw7.stream("tensorrt_llm", **request)
    assert joined(alias) == joined(direct)
    for answer in (*direct[:-1], *alias[:-1]):
        # Of the first chunk and of those in the middle, the same tensors too.
        assert answer.keys() == direct[0].keys()
    assert alias[-1].keys() == direct[-1].keys()


@pytest.mark.parametrize("output", ["output_ids", "finish_reason", "num_output_tokens", "cum_log_probs"])
def test_an_output_can_be_asked_for_alone(raw7: Raw, prompt: list[int], output: str) -> None:
    answers = []
    for model in ("tensorrt_llm@r7", "tensorrt_llm"):
        request = infer_request(
            model, input_ids=prompt, input_lengths=len(prompt), request_output_len=5, return_log_probs=True
        )
        request.outputs.add(name=output)
        (answer,) = read(raw7.stub.ModelStreamInfer(iter([request]), timeout=30))
        assert answer.keys() == {output}
        answers.append(answer)
    same(*answers)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input_ids": [1, 600]}, "600"),
        ({"input_lengths": 300}, "input_lengths is 300"),
        ({"request_output_len": 0}, "max_tokens"),
        ({"lora_name": "x"}, "lora_name"),
        ({"stop": True}, "no id"),
    ],
)
def test_an_alias_refuses_as_the_model_does(raw7: Raw, prompt: list[int], changes: dict[str, Any], words: str) -> None:
    request = {"input_ids": prompt, "request_output_len": 4, **changes}
    refusals = []
    for model in ("tensorrt_llm@r7", "tensorrt_llm"):
        with pytest.raises(Refusal, match=words) as caught:
            raw7.stream(model, **request)
        refusals.append((caught.value.code, caught.value.message))
    assert refusals[0] == refusals[1]


def test_stop_reaches_the_release_through_the_alias(raw7: Raw, release_server: Server, prompt: list[int]) -> None:
    endless = {"input_ids": prompt, "request_output_len": 1900, "end_id": -1, "streaming": True}
    call = raw7.start("tensorrt_llm", "mine", **endless)
    next(call)
    assert raw7.stream("tensorrt_llm", "mine", stop=True) == []
    *_, last = read(call)
    assert last["finish_reason"].tolist() == ["cancelled"]
    with pytest.raises(Refusal, match="no request with the id 'mine'"):
        raw7.stream("tensorrt_llm", "mine", stop=True)
    wait_for(lambda: release_server.metric("trireme_requests_running") == 0)


def test_the_public_models_answer_through_the_release(raw7: Raw) -> None:
    question = {"text_input": ask("What is 37 + 58?"), "max_tokens": 20}
    for ensemble in ("ensemble", "ensemble@r7"):
        same(raw7.one(ensemble, **question), raw7.one("ensemble@r7", **question))
        assert raw7.one(ensemble, **question)["text_output"].tolist() == ["95"]
    for llmapi in ("llmapi", "llmapi@r7"):
        assert raw7.one(llmapi, text_input=question["text_input"])["text_output"].tolist() == ["95"]
    assert raw7.unary("ensemble_unary", **question)["text_output"].tolist() == ["95"]


def test_the_other_steps_give_what_the_models_give(raw7: Raw) -> None:
    values = {"QUERY": "Grüße", "STOP_WORDS_DICT": ["a", "bc"], "REQUEST_OUTPUT_LEN": 7}
    direct, alias = raw7.unary("preprocessing@r7", **values), raw7.unary("preprocessing", **values)
    # It has the name of an input.
    assert direct.pop("REQUEST_OUTPUT_LEN").tolist() == [7]
    same(alias, direct)
    texts = []
    for model in ("postprocessing@r7", "postprocessing"):
        request = infer_request(model, SEQUENCE_LENGTH=direct["INPUT_ID"].size)
        ids = direct["INPUT_ID"][np.newaxis, np.newaxis]
        request.inputs.add(name="TOKENS_BATCH", datatype="INT32", shape=ids.shape)
        request.raw_input_contents.append(ids.tobytes())
        texts.append(outputs_of(raw7.stub.ModelInfer(request, timeout=30)))
    assert texts[0]["OUTPUT"].tolist() == ["Grüße"]
    same(*texts)
    for model in ("preprocessing@r7", "preprocessing"):
        with pytest.raises(grpc.RpcError, match=r"\[INVALID_ARGUMENT\] text_input: missing"):
            raw7.unary(model, REQUEST_OUTPUT_LEN=7)


def test_postprocessing_says_what_is_in_a_chunk_only_where_asked(raw7: Raw) -> None:
    request = infer_request("postprocessing@r7", CHUNK=[1, 2, 0, 10, 3, 1, 1, 2, 2, 70, 70, 71])
    answer = outputs_of(raw7.stub.ModelInfer(request, timeout=30))
    assert {name: answer[f"CHUNK_{name}"].tolist() for name in ("OUTPUT_IDS", "WINDOW_IDS", "FINISH_REASON")} == {
        "OUTPUT_IDS": [[70, 71]],
        "WINDOW_IDS": [70],
        "FINISH_REASON": ["length"],
    }
    request.outputs.add(name="OUTPUT")
    assert outputs_of(raw7.stub.ModelInfer(request, timeout=30)).keys() == {"OUTPUT"}


def test_a_release_runs_with_its_own_settings(raw7: Raw) -> None:
    def config(model: str) -> Any:
        return raw7.stub.ModelConfig(service_config_request(model)).config

    engine = config("tensorrt_llm@r7")
    assert engine.parameters["max_num_sequences"].string_value == "4"
    assert engine.parameters["default_temperature"].string_value == "0"
    assert config("preprocessing@r7").instance_group[0].count == 2
    assert config("preprocessing@r7").parameters["engine_model"].string_value == "tensorrt_llm@r7"
    assert [step.model_name for step in config("llmapi").ensemble_scheduling.step] == [
        "preprocessing@r7",
        "tensorrt_llm@r7",
        "postprocessing@r7",
    ]


def service_config_request(model: str) -> Any:
    from tritonclient.grpc import service_pb2

    return service_pb2.ModelConfigRequest(name=model)


@pytest.mark.parametrize("model", LLM.steps)
def test_an_alias_has_the_models_signature(model: str) -> None:
    """But for names that an ensemble cannot both take and give, and what is between the models alone."""
    config = read_config(ROOT / "model_repository" / model / "config.pbtxt")
    alias = alias_config(config, LLM, "r7")
    left_out = {tensor.name for tensor in config.input} - {tensor.name for tensor in alias.input}
    assert left_out == ({"stream_key"} if model == LLM.engine else set())
    not_given = {tensor.name for tensor in config.output} - {tensor.name for tensor in alias.output}
    assert {name for name in not_given if not name.startswith("CHUNK_")} == {
        LLM.preprocessing: {"REQUEST_OUTPUT_LEN"},
        LLM.engine: {"chunk"},
        LLM.postprocessing: set(),
    }[model]
    assert alias.max_batch_size == config.max_batch_size
    by_name = {tensor.name: tensor for tensor in (*config.input, *config.output)}
    assert all(by_name[tensor.name] == tensor for tensor in alias.output)


STEPS_PER_S = 20.0


def test_a_client_that_cancels_a_direct_call_ends_its_generation(tmp_path: Any) -> None:
    store = copy_repositories(Layout(ROOT), tmp_path / "store", {})
    tokenizer = ROOT / "model_repository" / "postprocessing" / "1" / "tokenizer"
    use_null_engine(store, NullModel.of_tokenizer(tokenizer, STEPS_PER_S))
    root = make_view(tmp_path / "root", {"r7": HandMade(store)}, "r7")
    server = start_server(tmp_path, env={"TRIREME_ROOT": str(root.root)})
    try:
        with connected(server.grpc) as raw:
            endless = {"input_ids": [5, 6, 7], "request_output_len": 1000, "end_id": -1, "streaming": True}
            calls = [raw.start("tensorrt_llm", **endless) for _ in range(8)]
            for call in calls:
                for _ in range(4):
                    next(call)
            before = server.metric("trireme_generated_tokens_total")
            for call in calls[:4]:
                call.cancel()
            wait_for(lambda: server.metric("trireme_requests_running") == 4)
            assert server.metric("trireme_generated_tokens_total") - before <= len(calls) * STEPS_PER_S
            for call in calls[4:]:
                next(call)
                call.cancel()
            wait_for(lambda: server.metric("trireme_requests_running") == 0)
            assert server.metric("trireme_requests_cancelled_total", cause="client") == len(calls)
    finally:
        stop_server(server)
    assert not server.regions()
