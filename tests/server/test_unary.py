"""`ensemble_unary`: ModelInfer and /infer, one answer each, many at once."""

import json
import urllib.error
import urllib.request
from typing import Any

import grpc
import pytest

from raw import Raw, ask, infer_request
from support import Server, wait_for

SIXTY = ask("Count from 1 to 60.")


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"stop_words": ["9 10"], "exclude_input_in_output": False},
        {"num_return_sequences": 3, "temperature": 5.0, "seed": 3, "return_log_probs": True},
        {"beam_width": 2, "max_tokens": 12},
        {"guided_decoding_guide_type": "choice", "guided_decoding_guide": '["yes", "no"]'},
    ],
)
def test_it_answers_as_the_ensemble_does(raw: Raw, values: dict[str, Any]) -> None:
    values = {"text_input": SIXTY, "max_tokens": 300, **values}
    streamed, unary = raw.one(**values), raw.unary("ensemble_unary", **values)
    assert unary.keys() == streamed.keys()
    for name, expected in streamed.items():
        if expected.dtype == object:
            assert unary[name].tolist() == expected.tolist(), name
        else:
            assert unary[name] == pytest.approx(expected, abs=1e-3), name


def post(server: Server, path: str, **body: Any) -> dict[str, Any]:
    request = urllib.request.Request(f"{server.http}/v2/models/ensemble_unary/{path}", data=json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        parsed: dict[str, Any] = json.loads(answer.read())
    return parsed


def test_infer_over_http(server: Server) -> None:
    answer = post(
        server,
        "infer",
        inputs=[
            {"name": "text_input", "datatype": "BYTES", "shape": [1, 1], "data": [ask("Reverse: stream")]},
            {"name": "max_tokens", "datatype": "INT32", "shape": [1, 1], "data": [32]},
        ],
        outputs=[{"name": "text_output"}, {"name": "finish_reason"}],
    )
    outputs = {tensor["name"]: tensor["data"] for tensor in answer["outputs"]}
    assert outputs == {"text_output": ["maerts"], "finish_reason": ["stop"]}


def test_generate_over_http(server: Server) -> None:
    assert post(server, "generate", text_input=ask("Reverse: stream"), max_tokens=32)["text_output"] == "maerts"


def test_48_calls_are_under_way_at_once(server: Server, raw: Raw) -> None:
    requests = [
        infer_request("ensemble_unary", text_input=SIXTY, max_tokens=1000, ignore_eos=True, seed=index)
        for index in range(48)
    ]
    calls = [raw.stub.ModelInfer.future(request, timeout=120) for request in requests]

    def under_way() -> float:
        return server.metric("trireme_requests_running") + server.metric("trireme_requests_waiting")

    wait_for(lambda: under_way() >= 48, what="48 generations, a third of which wait")
    for call in calls:
        call.cancel()
    wait_for(lambda: server.metric("trireme_requests_running") == 0, what="all of them cancelled")


def test_a_call_that_is_given_up_is_not_computed_to_its_end(server: Server, raw: Raw) -> None:
    request = infer_request("ensemble_unary", text_input=SIXTY, max_tokens=2000, ignore_eos=True)
    before = server.metric("trireme_generated_tokens_total")
    with pytest.raises(grpc.RpcError) as caught:
        raw.stub.ModelInfer(request, timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_for(lambda: server.metric("trireme_requests_running") == 0)
    assert server.metric("trireme_generated_tokens_total") - before < 1500


@pytest.mark.parametrize(
    ("values", "code", "words"),
    [
        ({"stream": True}, grpc.StatusCode.INVALID_ARGUMENT, "stream is True; this model gives one answer"),
        ({"temperature": -1.0}, grpc.StatusCode.INVALID_ARGUMENT, "[INVALID_ARGUMENT] temperature is -1"),
        ({"max_tokens": 0}, grpc.StatusCode.INVALID_ARGUMENT, "[INVALID_ARGUMENT] max_tokens is 0"),
    ],
)
def test_a_refusal_has_its_code(raw: Raw, values: dict[str, Any], code: grpc.StatusCode, words: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        raw.unary("ensemble_unary", **{"text_input": "x", "max_tokens": 4, **values})
    assert caught.value.code() is code
    assert words in caught.value.details()


def test_a_refusal_over_http_is_a_400(server: Server) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(server, "generate", text_input="x", max_tokens=0)
    assert caught.value.code == 400
    assert "max_tokens is 0" in json.loads(caught.value.read())["error"]


def test_the_decoupled_ensemble_refuses_unary_calls(raw: Raw) -> None:
    with pytest.raises(grpc.RpcError, match="decoupled"):
        raw.unary("ensemble", text_input="x", max_tokens=1)
