"""OpenAI's API as its clients use it, in front of a real server."""

import asyncio
import json
import subprocess
import sys
from typing import Any

import openai
import pytest
from huggingface_hub import InferenceClient
from openai.types.chat import ChatCompletionMessageParam

from gateway_runs import Gateway, call, chat, complete, open_stream, read_until
from raw import ask
from support import ROOT, Server, wait_for
from trireme_client import Client

MODEL = "ensemble"
SUM: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is 37 + 58?"}]
#: What the model is not sure of.
RANDOM = {"temperature": 2.0, "max_tokens": 40, "ignore_eos": True}
COUNT: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Count from 1 to 60."}]


@pytest.fixture
def sdk(gateway: Gateway) -> Any:
    """OpenAI's own client."""
    with openai.OpenAI(base_url=gateway.url, api_key="any", max_retries=0) as client:
        yield client


def test_the_sdk_gets_an_answer(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model=MODEL, messages=SUM)
    (choice,) = answer.choices
    assert (choice.message.content, choice.message.role, choice.finish_reason) == ("95", "assistant", "stop")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (18, 2, 20)
    assert answer.model == MODEL


def test_the_sdk_streams(sdk: openai.OpenAI) -> None:
    whole = sdk.chat.completions.create(model=MODEL, messages=COUNT)
    options: Any = {"include_usage": True}
    events = list(sdk.chat.completions.create(model=MODEL, messages=COUNT, stream=True, stream_options=options))
    *pieces, last = events
    assert len(pieces) > 10
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole.choices[0].message.content
    assert pieces[0].choices[0].delta.role == "assistant"
    assert [piece.choices[0].finish_reason for piece in pieces if piece.choices[0].finish_reason] == ["stop"]
    assert all(piece.usage is None for piece in pieces)
    assert last.choices == []
    assert last.usage == whole.usage
    assert len({piece.id for piece in events}) == 1


def test_the_asynchronous_sdk_asks_and_streams_many_at_once(gateway: Gateway) -> None:
    async def run() -> list[str]:
        async with openai.AsyncOpenAI(base_url=gateway.url, api_key="any", max_retries=0) as client:

            async def one(number: int) -> str:
                messages: Any = [{"role": "user", "content": f"What is {number} + {number}?"}]
                if number % 2:
                    answer = await client.chat.completions.create(model=MODEL, messages=messages)
                    return answer.choices[0].message.content or ""
                stream = await client.chat.completions.create(model=MODEL, messages=messages, stream=True)
                return "".join([event.choices[0].delta.content or "" async for event in stream])

            return await asyncio.gather(*(one(number) for number in range(11, 27)))

    assert asyncio.run(run()) == [str(2 * number) for number in range(11, 27)]


def test_the_sdk_completes_several_prompts(sdk: openai.OpenAI) -> None:
    prompts = [ask("What is 37 + 58?"), ask("Sort: 9 3 7 1")]
    answer = sdk.completions.create(model=MODEL, prompt=prompts)
    assert [(choice.index, choice.text) for choice in answer.choices] == [(0, "95"), (1, "1 3 7 9")]
    texts = {0: "", 1: ""}
    for event in sdk.completions.create(model=MODEL, prompt=prompts, stream=True):
        texts[event.choices[0].index] += event.choices[0].text
    assert texts == {0: "95", 1: "1 3 7 9"}


def test_another_client_asks_and_streams(gateway: Gateway) -> None:
    """That of Hugging Face shares no code with OpenAI's."""
    client = InferenceClient(base_url=gateway.url, api_key="any")
    answer = client.chat_completion(messages=[{"role": "user", "content": "What is 37 + 58?"}], model=MODEL)
    assert answer.choices[0].message.content == "95"
    events = client.chat_completion(
        messages=[{"role": "user", "content": "Reverse: stream"}], model=MODEL, stream=True, max_tokens=20
    )
    assert "".join(event.choices[0].delta.content or "" for event in events) == "maerts"


def test_curl_asks_and_streams(gateway: Gateway) -> None:
    body = json.dumps({"model": MODEL, "messages": SUM, "stream": True})
    command = ["curl", "-sN", "--max-time", "30", f"{gateway.url}/chat/completions", "-d", body]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line[:6] for line in lines if line] == ["data: "] * sum(map(bool, lines))
    assert lines[-2:] == ["data: [DONE]", ""]


def test_the_models(gateway: Gateway, sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == [MODEL]
    assert sdk.models.retrieve(MODEL).owned_by == "trireme"
    missing = call(gateway, "/v1/models/nobody")
    assert (missing.status, missing.error["code"]) == (404, "model_not_found")


def test_without_max_tokens_an_answer_may_take_what_the_context_leaves(gateway: Gateway) -> None:
    answer = chat(gateway, "Count from 1 to 60.").json
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] > 16
    endless = complete(gateway, ask("Count from 1 to 9."), ignore_eos=True).json
    assert endless["choices"][0]["finish_reason"] == "length"
    assert endless["usage"]["total_tokens"] == 2048


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_max_tokens(gateway: Gateway, name: str) -> None:
    answer = chat(gateway, "Count from 1 to 60.", **{name: 5}).json
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 5


def test_stop_strings_end_the_text(gateway: Gateway) -> None:
    assert chat(gateway, "Count from 1 to 9.", stop=" 4").text == "1 2 3"
    assert chat(gateway, "Count from 1 to 9.", stop=[" 6", " 5"], stream=True).text == "1 2 3 4"


def test_a_seed_gives_the_same_text_again(gateway: Gateway) -> None:
    no_cache = {"cache-control": "no-cache"}
    texts = {complete(gateway, "zq kw", no_cache, **RANDOM, seed=7).text for _ in range(3)}
    assert len(texts) == 1
    assert complete(gateway, "zq kw", no_cache, **RANDOM, seed=-7).text not in texts


def test_several_choices(gateway: Gateway) -> None:
    fields = {"n": 3, "seed": 1, **RANDOM}
    answer = complete(gateway, "zq kw", **fields).json
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    texts = {0: "", 1: "", 2: ""}
    ends: dict[int, str] = {}
    for event in complete(gateway, "zq kw", stream=True, **fields).events:
        (choice,) = event["choices"]
        texts[choice["index"]] += choice["text"]
        if choice["finish_reason"]:
            ends[choice["index"]] = choice["finish_reason"]
    assert len(set(texts.values())) == 3
    assert list(texts.values()) == [choice["text"] for choice in answer["choices"]]
    assert [ends[index] for index in range(3)] == [choice["finish_reason"] for choice in answer["choices"]]


def test_log_probs_of_a_chat_are_of_its_tokens(gateway: Gateway) -> None:
    answer = chat(gateway, "Repeat: 你好 👋", logprobs=True).json["choices"][0]
    content = answer["logprobs"]["content"]
    assert bytes(byte for one in content for byte in one["bytes"]).decode() == answer["message"]["content"]
    assert all(one["logprob"] <= 0 and one["top_logprobs"] == [] for one in content)
    streamed = chat(gateway, "Repeat: 你好 👋", logprobs=True, stream=True).events
    pieces = [event["choices"][0]["logprobs"] for event in streamed]
    assert [one["token"] for piece in pieces if piece for one in piece["content"]] == [one["token"] for one in content]


def test_log_probs_of_a_completion(gateway: Gateway) -> None:
    found = complete(gateway, ask("Sort: 9 3 7 1"), logprobs=0).json["choices"][0]
    log_probs = found["logprobs"]
    assert "".join(log_probs["tokens"]) == found["text"]
    assert log_probs["text_offset"] == list(range(len(found["text"])))
    assert len(log_probs["token_logprobs"]) == len(log_probs["tokens"])


def test_echo_repeats_the_prompt(gateway: Gateway) -> None:
    assert complete(gateway, "Sort: 9 3 7 1", echo=True, max_tokens=2).text.startswith("Sort: 9 3 7 1")


SCHEMA = {"type": "object", "properties": {"sorted": {"type": "boolean"}}, "required": ["sorted"]}


def test_a_response_format_is_enforced(gateway: Gateway) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    assert json.loads(chat(gateway, "Sort: 9 3 7 1", response_format=wanted).text).keys() == {"sorted"}
    found = chat(gateway, "Sort: 9 3 7 1", response_format={"type": "json_object"}, max_tokens=200).json["choices"][0]
    assert found["message"]["content"].startswith("{")
    assert found["finish_reason"] == "length" or isinstance(json.loads(found["message"]["content"]), dict)
    assert chat(gateway, "Sort: 9 3 7 1", guided_choice=["yes", "no"]).text in ("yes", "no")


def test_a_penalty_changes_the_answer(gateway: Gateway) -> None:
    prompt = ask("Repeat: aaaa aaaa aaaa aaaa")
    plain = complete(gateway, prompt, max_tokens=20).text
    assert complete(gateway, prompt, max_tokens=20, frequency_penalty=2.0).text != plain


def test_parts_of_a_message_are_joined_and_a_developer_is_heard(gateway: Gateway) -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "37 + 58?"}]
    body = {"model": MODEL, "messages": [{"role": "user", "content": parts}]}
    assert call(gateway, "/v1/chat/completions", body).text == "95"
    with_role = [{"role": "developer", "content": "You count."}, {"role": "user", "content": "What is 37 + 58?"}]
    as_system = [{"role": "system", "content": "You count."}, with_role[1]]
    answers = [call(gateway, "/v1/chat/completions", {**body, "messages": one}) for one in (with_role, as_system)]
    assert answers[0].json["usage"] == answers[1].json["usage"]
    assert answers[0].text == answers[1].text


def test_an_answer_can_be_sent_back_as_it_came(sdk: openai.OpenAI) -> None:
    first = sdk.chat.completions.create(model=MODEL, messages=SUM).choices[0].message
    question: Any = {"role": "user", "content": "Uppercase: triton"}
    for turn in (first, first.model_dump()):
        messages: Any = [*SUM, turn, question]
        assert sdk.chat.completions.create(model=MODEL, messages=messages).choices[0].message.content


def test_what_changes_nothing_is_accepted(gateway: Gateway) -> None:
    fields = {
        "user": "u-1",
        "metadata": {"a": "b"},
        "store": False,
        "tools": [],
        "tool_choice": "auto",
        "logit_bias": {},
        "service_tier": "auto",
        "modalities": ["text"],
        "parallel_tool_calls": True,
        "top_p": 1,
        "n": 1.0,
        "presence_penalty": 0,
        "temperature": None,
    }
    assert chat(gateway, "What is 37 + 58?", **fields).text == "95"


def test_a_nucleus_of_nothing_is_greedy(gateway: Gateway) -> None:
    assert chat(gateway, "What is 37 + 58?", top_p=0, temperature=2).text == "95"


def test_an_answer_says_who_gave_it(gateway: Gateway) -> None:
    answer = chat(gateway, "What is 37 + 58?", {"x-request-id": "mine-7"})
    assert answer.headers["x-request-id"] == "mine-7"
    assert answer.headers["x-trireme-release"] == "unreleased"
    assert answer.headers["x-trireme-server"] == "server-1"
    assert answer.headers["x-trireme-cache"] == "bypass"
    line = gateway.line_of("mine-7")
    said = {name: line[name] for name in ("endpoint", "status", "model", "release", "server", "cache", "finish_reason")}
    assert said == {
        "endpoint": "chat",
        "status": 200,
        "model": "ensemble",
        "release": "unreleased",
        "server": "server-1",
        "cache": "bypass",
        "finish_reason": "stop",
    }
    usage = answer.json["usage"]
    assert (line["tokens_in"], line["tokens_out"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    other = chat(gateway, "What is 37 + 58?", {"x-request-id": 200 * "x"})
    assert len(other.headers["x-request-id"]) == 32


def test_no_prompt_and_no_answer_is_in_the_log(gateway: Gateway) -> None:
    assert chat(gateway, "Uppercase: triton", temperature=0).text == "TRITON"
    assert "uppercase" not in gateway.log.lower()
    assert "TRITON" not in gateway.log


def test_health_metrics_and_the_document(gateway: Gateway) -> None:
    assert call(gateway, "/health/live").json == {"status": "ok"}
    assert call(gateway, "/health/ready").json == {"status": "ok"}
    before = gateway.metric("requests_total", endpoint="chat", status="200")
    assert chat(gateway, "What is 37 + 58?").status == 200
    assert gateway.metric("requests_total", endpoint="chat", status="200") == before + 1
    assert gateway.metric("tokens_total", kind="answer") > 0
    document = call(gateway, "/openapi.json").json
    assert set(document["paths"]) == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
        "/v1/models/{id}",
        "/health/live",
        "/health/ready",
        "/metrics",
    }


def _cancelled(server: Server) -> float:
    return server.metric("trireme_requests_cancelled_total", cause="client")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_cancels_the_generation(gateway: Gateway, server: Server, stream: bool) -> None:
    before, left = _cancelled(server), gateway.metric("requests_total", status="499")
    fields = {"prompt": ask("Count from 1 to 60."), "ignore_eos": True, "max_tokens": 2000, "stream": stream}
    with open_stream(gateway, fields, headers=[f"x-request-id: leaves-{stream}"]) as connection:
        if stream:
            read_until(connection, b"data: ")
        else:
            wait_for(lambda: server.metric("trireme_requests_running") > 0, what="the generation")
    wait_for(lambda: _cancelled(server) == before + 1, 10, "the cancellation")
    wait_for(lambda: server.metric("trireme_requests_running") == 0, 10, "the end of the generation")
    wait_for(lambda: gateway.metric("requests_total", status="499") == left + 1, 10, "the line in the log")
    line = gateway.line_of(f"leaves-{stream}")
    assert (line["status"], line["finish_reason"]) == (499, "left")
    # What was computed for it is known all the same.
    assert line["tokens_in"] > 5
    assert 0 < line["tokens_out"] < 2000


def test_the_gateway_answers_as_the_server_does(gateway: Gateway, client: Client) -> None:
    for prompt in (ask("Repeat: 你好 👋 Grüße"), ask("Uppercase: triton"), ask("Sort: 9 3 7 1")):
        direct = client.generate(prompt=prompt)
        assert complete(gateway, prompt).text == direct.text
        assert complete(gateway, prompt, stream=True).text == direct.text


def test_the_example_runs(gateway: Gateway) -> None:
    path = ROOT / "clients" / "examples" / "openai_chat.py"
    done = subprocess.run(
        [sys.executable, str(path), gateway.url], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("95\n1 2 3")
