"""Requests that are at fault: each is told what is wrong, with which field, and what is allowed."""

import json
from typing import Any

import pytest

from gateway_runs import Gateway, call, chat, complete

CHAT = {"model": "ensemble", "messages": [{"role": "user", "content": "What is 37 + 58?"}]}
TOOL = {"type": "function", "function": {"name": "weather"}}

#: What is sent beside a chat that is right -> status, param, a part of the message.
WRONG: dict[str, tuple[dict[str, Any], int, str | None, str]] = {
    "an unknown model": ({"model": "nobody"}, 404, "model", "there is no model 'nobody'; there are ensemble"),
    "a model of another type": ({"model": 5}, 400, "model", "model is 5"),
    "an empty model": ({"model": ""}, 400, "model", "model is ''"),
    "no messages": ({"messages": []}, 400, "messages", "at least 1 item"),
    "messages of another type": ({"messages": "hi"}, 400, "messages", "messages is 'hi'"),
    "an unknown role": ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages[0].role", "'tool'"),
    "a message without content": ({"messages": [{"role": "user"}]}, 400, "messages[0].content", "missing"),
    "content of another type": ({"messages": [{"role": "user", "content": 5}]}, 400, "messages[0].content", "is 5"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        400,
        "messages[0].content[0].type",
        "'image_url'",
    ),
    "too hot": (
        {"temperature": 2.5},
        400,
        "temperature",
        "temperature is 2.5: input should be less than or equal to 2",
    ),
    "a temperature that is a text": ({"temperature": "warm"}, 400, "temperature", "'warm'"),
    "too much of a nucleus": ({"top_p": 1.5}, 400, "top_p", "1.5"),
    "no tokens": ({"max_tokens": 0}, 400, "max_tokens", "max_tokens is 0"),
    "half a token": ({"max_tokens": 1.5}, 400, "max_tokens", "1.5"),
    "a true number": ({"max_tokens": True}, 400, "max_tokens", "True"),
    "two lengths": ({"max_tokens": 5, "max_completion_tokens": 6}, 400, "max_tokens", "both given"),
    "no answers": ({"n": 0}, 400, "n", "n is 0"),
    "too many answers": ({"n": 1000}, 400, "n", "at most 32 answers"),
    "too large a seed": ({"seed": 2**64}, 400, "seed", "18446744073709551616"),
    "too large a penalty": ({"presence_penalty": 3}, 400, "presence_penalty", "presence_penalty is 3"),
    "an empty stop string": ({"stop": ""}, 400, "stop", "stop is ''"),
    "10,000 stop strings": ({"stop": ["x"] * 10_000}, 400, "stop", "at most 64 items"),
    "a long stop string": ({"stop": "x" * 5000}, 400, "stop", "at most 1024 characters"),
    "tools": ({"tools": [TOOL]}, 400, "tools", "Not supported yet"),
    "a forced tool": ({"tool_choice": "required"}, 400, "tool_choice", "'required'"),
    "biased logits": ({"logit_bias": {"50": 5}}, 400, "logit_bias", "Only empty"),
    "several log-probs a token": ({"logprobs": True, "top_logprobs": 5}, 400, "top_logprobs", "chosen token only"),
    "audio": ({"modalities": ["text", "audio"]}, 400, "modalities[1]", "'audio'"),
    "reasoning": ({"reasoning_effort": "high"}, 400, "reasoning_effort", "'high'"),
    "storing": ({"store": True}, 400, "store", "True"),
    "an unknown field": ({"tempratur": 1}, 400, "tempratur", "tempratur: unknown field"),
    "stream options without a stream": ({"stream_options": {}}, 400, "stream_options", "without stream"),
    "an unknown format": ({"response_format": {"type": "xml"}}, 400, "response_format.type", "'xml'"),
    "a format without its schema": ({"response_format": {"type": "json_schema"}}, 400, "response_format", "missing"),
    "a schema that cannot be enforced": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}},
        400,
        "response_format",
        "not",
    ),
    "two formats": (
        {"response_format": {"type": "json_object"}, "guided_regex": "a+"},
        400,
        "guided_regex",
        "response_format and guided_regex are given together",
    ),
    "too long a prompt": (
        {"messages": [{"role": "user", "content": "word " * 20_000}]},
        400,
        "messages",
        "the model's context",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_chat_that_is_wrong(gateway: Gateway, case: str) -> None:
    fields, status, param, message = WRONG[case]
    for stream in ({}, {"stream": True}) if "stream_options" not in fields else ({},):
        answer = call(gateway, "/v1/chat/completions", {**CHAT, **fields, **stream})
        assert (answer.status, answer.error["param"]) == (status, param), answer.body
        assert message in answer.error["message"]
        assert answer.error["type"] == "invalid_request_error"
        assert len(answer.body) < 1000


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"prompt": ""}, "prompt", "empty"),
        ({"prompt": []}, "prompt", "at least 1 item"),
        ({"prompt": ["a", ""]}, "prompt[1]", "empty"),
        ({"prompt": ["a"] * 33}, "prompt", "33 texts; at most 32"),
        ({"prompt": ["a"] * 20, "n": 2}, "n", "at most 32 answers"),
        ({"prompt": [1, 2, 3]}, "prompt[0]", "is 1"),
        ({"prompt": [1] * 200_000}, "prompt[0]", "is 1"),
        ({"prompt": ["a"] * 200_000}, "prompt", "at most 8192 items"),
        ({"guided_regex": "("}, "guided_regex", "guided_regex: "),
        ({"suffix": "x"}, "suffix", "Not supported"),
        ({"best_of": 3}, "best_of", "Not supported beyond 1"),
        ({"logprobs": 2}, "logprobs", "chosen token only"),
        ({"logprobs": 0, "echo": True}, "echo", "both given"),
    ],
)
def test_a_completion_that_is_wrong(gateway: Gateway, fields: dict[str, Any], param: str, message: str) -> None:
    answer = complete(gateway, **{"prompt": "x", **fields})
    assert (answer.status, answer.error["param"]) == (400, param), answer.body
    assert message in answer.error["message"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "no valid JSON"),
        (b"{", "no valid JSON"),
        (b"[1, 2]", "no JSON object"),
        (b"null", "no JSON object"),
        (b'{"model": "ensemble", "messages": [{"role": "user", "content": "\xff\xfe"}]}', "no valid JSON"),
        (b'{"model": "ensemble", "messages": [{"role": "user", "content": "\\ud800"}]}', "no valid JSON"),
        (b"[" * 100_000, "no valid JSON"),
        (json.dumps({**CHAT, "temperature": float("nan")}).encode(), "nan"),
        (b"\x00" * 100, "no valid JSON"),
    ],
    ids=["empty", "half", "a list", "null", "no UTF-8", "a lone surrogate", "deep", "NaN", "zeros"],
)
def test_a_body_that_is_no_request(gateway: Gateway, body: bytes, message: str) -> None:
    answer = call(gateway, "/v1/chat/completions", body, method="POST")
    assert answer.status == 400, answer.body
    assert message in answer.error["message"]


def test_a_field_is_missing(gateway: Gateway) -> None:
    answer = call(gateway, "/v1/chat/completions", {"model": "ensemble"})
    assert (answer.status, answer.error["param"], answer.error["code"]) == (
        400,
        "messages",
        "missing_required_parameter",
    )


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("x-trireme-priority", "11", "-10 to 10"),
        ("x-trireme-priority", "high", "-10 to 10"),
        ("x-trireme-deadline-ms", "0", "1 to 86400000"),
        ("x-trireme-deadline-ms", "soon", "1 to 86400000"),
    ],
)
def test_a_header_that_is_wrong(gateway: Gateway, name: str, value: str, allowed: str) -> None:
    answer = chat(gateway, "What is 37 + 58?", {name: value})
    assert answer.status == 400
    assert f"{name} is {value!r}" in answer.error["message"]
    assert allowed in answer.error["message"]


def test_a_path_and_a_method_that_do_not_exist(gateway: Gateway) -> None:
    assert call(gateway, "/v1/embeddings", {}).status == 404
    assert "openapi.json" in call(gateway, "/v1/embeddings", {}).error["message"]
    wrong = call(gateway, "/v1/chat/completions")
    assert (wrong.status, wrong.headers["allow"]) == (405, "POST")
    assert wrong.error["message"]


def test_a_deadline_ends_an_answer(gateway: Gateway) -> None:
    fields = {"ignore_eos": True, "max_tokens": 2000}
    answer = chat(gateway, "Count from 1 to 60.", {"x-trireme-deadline-ms": "150"}, **fields)
    assert (answer.status, answer.error["type"]) == (504, "timeout_error")
    for deadline_ms in (300, 600, 1200, 2400):
        # On a machine that is busy with other things, nothing may have begun by then.
        headers = {"x-trireme-deadline-ms": str(deadline_ms)}
        streamed = chat(gateway, "Count from 1 to 60.", headers, stream=True, **fields)
        if streamed.status == 200:
            break
    assert streamed.status == 200
    *pieces, last = [part for part in streamed.body.decode().split("\n\n") if part]
    assert len(pieces) > 1
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
    assert "[DONE]" not in streamed.body.decode()
