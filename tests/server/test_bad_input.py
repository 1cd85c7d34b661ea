"""Each kind of bad input: refused by name, while others are served."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor

from support import Server
from trireme_client import Client
from trireme_client.errors import InvalidArgument, error_from_rpc, error_from_text


def text(*values: bytes) -> tuple[str, list[int], bytes]:
    array = np.array([list(values)], dtype=object)
    return "BYTES", [1, len(values)], serialize_byte_tensor(array).item()


def number(dtype: str, *values: float) -> tuple[str, list[int], bytes]:
    kind = {"INT32": np.int32, "FP32": np.float32, "UINT64": np.uint64, "BOOL": np.bool_, "INT64": np.int64}[dtype]
    return dtype, [1, len(values)], np.array([values], dtype=kind).tobytes()


GOOD = {"text_input": text(b"<|user|>Reverse: abc<|assistant|>"), "max_tokens": number("INT32", 8)}


@dataclass(frozen=True)
class Case:
    """A request that is at fault: what is changed, what the message must hold, and whether our code words it.

    `http` is the same for /generate, None where JSON cannot express it; `status` is what Triton's front end answers.
    """

    name: str
    tensors: dict[str, Any]
    words: tuple[str, ...]
    http: dict[str, Any] | None = None
    ours: bool = True
    status: int = 400
    parameters: dict[str, str] = field(default_factory=dict)


CASES = (
    Case("empty prompt", {"text_input": text(b"")}, ("text_input", "empty", "1"), {"text_input": ""}),
    Case(
        "prompt too long",
        {"text_input": text(b"x" * 5000)},
        ("5001 tokens", "2048"),
        {"text_input": "x" * 5000},
    ),
    Case(
        "prompt far too long",
        {"text_input": text(b"x" * 1_000_000)},
        ("1000000 bytes", "2048"),
        {"text_input": "x" * 1_000_000},
    ),
    Case("max_tokens 0", {"max_tokens": number("INT32", 0)}, ("max_tokens is 0", "1"), {"max_tokens": 0}),
    Case("max_tokens negative", {"max_tokens": number("INT32", -3)}, ("max_tokens is -3", "1"), {"max_tokens": -3}),
    Case("max_tokens missing", {"max_tokens": None}, ("max_tokens", "missing"), {"max_tokens": None}),
    Case("no prompt", {"text_input": None}, ("text_input", "missing"), {"text_input": None}),
    Case("unknown tensor", {"tempratur": number("FP32", 1)}, ("tempratur",), ours=False),
    Case("unknown key", {}, ("tempratur", "unknown"), {"tempratur": 1}, parameters={"tempratur": "1"}),
    Case("wrong dtype", {"max_tokens": number("INT64", 8)}, ("max_tokens", "INT64", "INT32"), ours=False),
    Case("text for a number", {}, ("parse",), {"max_tokens": "many"}, ours=False, status=500),
    Case("wrong shape", {"max_tokens": number("INT32", 8, 9)}, ("max_tokens", "[1,2]"), ours=False),
    Case(
        "batch of two",
        {
            "text_input": ("BYTES", [2, 1], serialize_byte_tensor(np.array([[b"x"], [b"y"]], object)).item()),
            "max_tokens": ("INT32", [2, 1], np.array([[4], [4]], np.int32).tobytes()),
        },
        ("text_input", "[2, 1]", "batch size"),
    ),
    Case("invalid UTF-8", {"text_input": text(b"a\xff")}, ("text_input", "UTF-8", "0xff", "1")),
    Case("NaN temperature", {"temperature": number("FP32", float("nan"))}, ("temperature", "nan", "0")),
    Case(
        "negative temperature",
        {"temperature": number("FP32", -1)},
        ("temperature", "-1", "0"),
        {"temperature": -1.0},
    ),
    Case("top_p beyond 1", {"top_p": number("FP32", 1.5)}, ("top_p", "1.5", "0 to 1"), {"top_p": 1.5}),
    Case("negative top_k", {"top_k": number("INT32", -2)}, ("top_k", "-2", "0"), {"top_k": -2}),
    Case("end_id outside", {"end_id": number("INT32", 512)}, ("end_id", "512", "511"), {"end_id": 512}),
    Case("invalid stop word", {"stop_words": text(b"\xc3\x28")}, ("stop_words", "UTF-8", "0xc3")),
    Case("too many beams", {"beam_width": number("INT32", 33)}, ("beam_width", "33", "32"), {"beam_width": 33}),
    Case(
        "too many sequences",
        {"num_return_sequences": number("INT32", 1000)},
        ("num_return_sequences", "1000", "32"),
        {"num_return_sequences": 1000},
    ),
    Case(
        "more sequences than beams",
        {"num_return_sequences": number("INT32", 3), "beam_width": number("INT32", 2)},
        ("num_return_sequences", "3", "beam_width", "2"),
        {"num_return_sequences": 3, "beam_width": 2},
    ),
    Case(
        "a sampled beam search",
        {"beam_width": number("INT32", 2), "temperature": number("FP32", 0.5)},
        ("beam_width", "2", "temperature"),
        {"beam_width": 2, "temperature": 0.5},
    ),
    Case(
        "too many stop words",
        {"stop_words": text(*(str(number).encode() for number in range(1025)))},
        ("stop_words", "1025", "1024"),
        {"stop_words": [str(number) for number in range(1025)]},
    ),
    Case("bad words too long", {"bad_words": text(b"x" * 17_000)}, ("bad_words", "17000", "16384")),
    Case(
        "beams without an end",
        {"beam_width": number("INT32", 2), "ignore_eos": number("BOOL", True)},
        ("beam_width", "ignore_eos"),
        {"beam_width": 2, "ignore_eos": True},
    ),
    Case(
        "beams with a penalty",
        {"beam_width": number("INT32", 2), "presence_penalty": number("FP32", 1)},
        ("beam_width", "presence_penalty"),
        {"beam_width": 2, "presence_penalty": 1.0},
    ),
    Case("bad word that is no text", {"bad_words": text(b"\xff")}, ("bad_words", "UTF-8", "0xff")),
    Case(
        "bias",
        {"embedding_bias_words": text(b"x"), "embedding_bias_weights": number("FP32", 1)},
        ("embedding_bias_weights", "openvino"),
        {"embedding_bias_words": "x", "embedding_bias_weights": 1.0},
    ),
    Case(
        "logits",
        {"return_context_logits": number("BOOL", True)},
        ("return_context_logits", "openvino"),
        {"return_context_logits": True},
    ),
    Case("lora", {"lora_task_id": number("UINT64", 1)}, ("lora_task_id", "openvino"), {"lora_task_id": 1}),
    Case(
        "broken messages",
        {"text_input": None, "messages": text(b"[{")},
        ("messages", "JSON"),
        {"text_input": None, "messages": "[{"},
    ),
    Case(
        "lone surrogate",
        {"text_input": None, "messages": text(rb'[{"role": "user", "content": "\ud800"}]')},
        ("messages", "surrogate", "d800"),
    ),
    Case("text and messages", {"messages": text(b"[]x")}, ("text_input and messages",), {"messages": "[]x"}),
)


@pytest.fixture(scope="module")
def stub(server: Server) -> Iterator[Any]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def request_of(case: Case) -> Any:
    request = service_pb2.ModelInferRequest(model_name="ensemble")
    for name, tensor in {**GOOD, **case.tensors}.items():
        if tensor is not None:
            dtype, shape, raw = tensor
            request.inputs.add(name=name, datatype=dtype, shape=shape)
            request.raw_input_contents.append(raw)
    for key, value in case.parameters.items():
        request.parameters[key].string_param = value
    return request


def assert_still_serving(server: Server) -> None:
    with Client(server.grpc, timeout_s=30) as client:
        assert client.generate(prompt="<|user|>Reverse: abc<|assistant|>", max_tokens=8).text == "cba"


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.tensors or case.parameters], ids=lambda case: case.name
)
def test_bad_input_over_grpc(server: Server, stub: Any, case: Case) -> None:
    responses = list(stub.ModelStreamInfer(iter([request_of(case)]), timeout=10))
    assert len(responses) == 1
    message = responses[0].error_message
    assert all(word in message for word in case.words), message
    assert ("[INVALID_ARGUMENT] " in message) == case.ours
    assert isinstance(error_from_text(message), InvalidArgument)
    assert_still_serving(server)


@pytest.mark.parametrize("case", [case for case in CASES if case.http is not None], ids=lambda case: case.name)
def test_bad_input_over_http(server: Server, case: Case) -> None:
    body = {"text_input": "<|user|>Reverse: abc<|assistant|>", "max_tokens": 8, **(case.http or {})}
    body = {key: value for key, value in body.items() if value is not None}
    request = urllib.request.Request(f"{server.http}/v2/models/ensemble/generate", data=json.dumps(body).encode())
    with pytest.raises(urllib.error.HTTPError) as caught, urllib.request.urlopen(request, timeout=10):
        pass
    with caught.value as answer:
        message = json.load(answer)["error"]
    assert answer.code == case.status
    assert all(word in message for word in case.words), message
    assert ("[INVALID_ARGUMENT] " in message) == case.ours
    assert_still_serving(server)


def test_invalid_utf8_in_json_is_refused(server: Server) -> None:
    body = b'{"text_input": "a\xff", "max_tokens": 8}'
    request = urllib.request.Request(f"{server.http}/v2/models/ensemble/generate", data=body)
    with pytest.raises(urllib.error.HTTPError) as caught, urllib.request.urlopen(request, timeout=10):
        pass
    with caught.value as answer:
        assert answer.code == 400
        assert "UTF-8" in json.load(answer)["error"]


@pytest.mark.alone
def test_a_neighbour_in_the_same_batch_is_not_disturbed(server: Server, stub: Any) -> None:
    """Many requests at once, every second one at fault."""
    bad = next(case for case in CASES if case.name == "lone surrogate")
    good = Case("good", {}, ())
    calls = [stub.ModelStreamInfer(iter([request_of(good if i % 2 else bad)]), timeout=30) for i in range(32)]
    answers = [list(call) for call in calls]
    for i, responses in enumerate(answers):
        if i % 2:
            assert not any(response.error_message for response in responses)
        else:
            assert "surrogate" in responses[0].error_message


def test_a_unary_call_to_the_streaming_model_says_what_is_wrong(stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request_of(Case("good", {}, ())), timeout=10)
    assert "decoupled" in str(error_from_rpc(caught.value))
