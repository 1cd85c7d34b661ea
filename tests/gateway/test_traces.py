"""Traces of requests through the gateway and all models, as a collector receives them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from collector_runs import Collector, Span, collector
from gateway_runs import Gateway, chat, complete, open_stream, read_until, server_options, started_gateway
from raw import ask
from support import Server, start_server, stop_server, wait_for
from trireme_gateway.settings import TraceSettings
from trireme_gateway.traces import traces_of
from trireme_runtime import otlp

SERVER, CLIENT = 2, 3
GREEDY = {"temperature": 0}
KEY = "sk-never-to-be-seen"
TEXT = "Reverse: unmistakable"
MODELS = ("trireme-preprocessing", "trireme-tensorrt_llm", "trireme-postprocessing")


def sending_to(collected: Collector) -> dict[str, str]:
    return {otlp.ENDPOINT_VARIABLE: collected.url, otlp.COLLECT_VARIABLE: "100"}


@pytest.fixture(scope="module")
def collected() -> Iterator[Collector]:
    """The collector of all that is traced."""
    with collector() as running:
        yield running


@pytest.fixture(scope="module")
def traced_server(collected: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose models send to it."""
    running = start_server(
        tmp_path_factory.mktemp("traced"),
        env={**sending_to(collected), "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test"},
    )
    yield running
    stop_server(running)
    assert not running.regions()


@pytest.fixture(scope="module")
def traced(collected: Collector, traced_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway in front of it that does so too."""
    folder = tmp_path_factory.mktemp("traced")
    with started_gateway(folder, *server_options(traced_server), env=sending_to(collected)) as running:
        yield running


_numbers = iter(range(1, 1000))


@dataclass(frozen=True)
class Client:
    """The span of a client that a request belongs to."""

    trace: str
    span: str
    sampled: bool = True

    @classmethod
    def new(cls, sampled: bool = True) -> "Client":
        number = next(_numbers)
        return cls(f"{number:032x}", f"{number:016x}", sampled)

    @property
    def headers(self) -> dict[str, str]:
        return {
            "traceparent": f"00-{self.trace}-{self.span}-{int(self.sampled):02x}",
            "authorization": f"Bearer {KEY}",
            "x-request-id": f"request-{self.trace[-4:]}",
            "cache-control": "no-cache",
        }


def spans_of(collected: Collector, client: Client, last: str = "postprocessing", count: int = 1) -> dict[str, Span]:
    """Those of a request, by service and name, once the request's own and the last ones are there."""
    collected.wait(lambda span: span.trace == client.trace and span.parent == client.span)
    collected.wait(lambda span: span.trace == client.trace and span.name == last, count)
    return {
        f"{span.service.removeprefix('trireme-')} {span.name}": span
        for span in collected.spans
        if span.trace == client.trace
    }


@pytest.mark.parametrize("stream", [True, False])
def test_one_trace_goes_through_the_gateway_and_all_models(collected: Collector, traced: Gateway, stream: bool) -> None:
    client = Client.new()
    answer = chat(traced, TEXT, client.headers, stream=stream, max_tokens=50, user="somebody", seed=-3, top_p=0.9)
    assert answer.status == 200
    spans = spans_of(collected, client)
    request, call = spans["gateway chat ensemble"], spans["gateway infer server-1"]
    assert (request.parent, request.kind) == (client.span, SERVER)
    assert (call.parent, call.kind) == (request.id, CLIENT)
    assert spans["gateway queue"].parent == request.id
    steps = [
        spans[name]
        for name in (
            "preprocessing preprocessing",
            "tensorrt_llm queue",
            "tensorrt_llm prefill",
            "tensorrt_llm decode",
            "postprocessing postprocessing",
        )
    ]
    assert {span.parent for span in steps} == {call.id}
    assert len(spans) == 3 + len(steps)
    assert sum(span.trace == client.trace for span in collected.spans) == len(spans)
    # One after the other, all of it within the call, and that within the request.
    preprocessing, queue, prefill, decode, postprocessing = steps
    assert request.began_ns <= spans["gateway queue"].began_ns <= spans["gateway queue"].ended_ns <= call.began_ns
    assert call.began_ns <= preprocessing.began_ns < preprocessing.ended_ns <= queue.began_ns
    assert queue.began_ns <= queue.ended_ns == prefill.began_ns
    assert prefill.began_ns < prefill.ended_ns == decode.began_ns
    assert decode.began_ns < decode.ended_ns
    assert postprocessing.ended_ns <= call.ended_ns <= request.ended_ns
    if stream:
        assert decode.began_ns < postprocessing.began_ns < decode.ended_ns < postprocessing.ended_ns
    else:
        assert decode.ended_ns < postprocessing.began_ns
    assert not any(span.is_error or "error.type" in span.attributes for span in spans.values())
    # Each process says which it is.
    assert {span.service for span in spans.values()} == {"trireme-gateway", *MODELS}
    for span in steps:
        assert span.resource["trireme.model"].partition("@")[0] == span.service.removeprefix("trireme-")
        assert span.resource["trireme.model.version"] == "1"
        assert span.resource["deployment.environment.name"] == "test"
    assert collected.paths == {"/v1/traces"}


def test_the_attributes_are_those_of_the_conventions(collected: Collector, traced: Gateway) -> None:
    client = Client.new()
    fields = {"max_tokens": 40, "temperature": 0.5, "top_p": 0.75, "seed": -7, "stop": ["##", "@@"], "n": 2}
    answer = chat(traced, TEXT, client.headers, stream=True, stream_options={"include_usage": True}, **fields)
    usage = answer.events[-1]["usage"]
    spans = spans_of(collected, client)
    request = spans["gateway chat ensemble"]
    time_to_first_chunk = request.attributes["gen_ai.response.time_to_first_chunk"]
    assert request.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "trireme",
        "gen_ai.request.model": "ensemble",
        "gen_ai.request.max_tokens": 40,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.75,
        "gen_ai.request.seed": -7,
        "gen_ai.request.stop_sequences": ["##", "@@"],
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.stream": True,
        "gen_ai.response.id": answer.events[0]["id"],
        "gen_ai.response.model": answer.headers["x-trireme-release"],
        "gen_ai.response.finish_reasons": ["stop", "stop"],
        "gen_ai.response.time_to_first_chunk": time_to_first_chunk,
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": int(traced.address.rpartition(":")[2]),
        "trireme.request.id": answer.headers["x-request-id"],
        "trireme.cache": "bypass",
    }
    (first,) = request.events
    assert first.name == "gen_ai.first_token"
    assert 0 < time_to_first_chunk < (request.ended_ns - request.began_ns) / 1e9
    assert abs((first.time_ns - request.began_ns) / 1e9 - time_to_first_chunk) < 0.05

    call = spans["gateway infer server-1"]
    assert {"trireme.server", "server.address", "server.port", "rpc.system"} == call.attributes.keys()
    decode, prefill = spans["tensorrt_llm decode"], spans["tensorrt_llm prefill"]
    triton_id = decode.attributes["triton.request.id"]
    assert re.fullmatch(f"trireme-unary-[0-9a-f]{{32}}:{client.headers['x-request-id']}", triton_id)
    assert decode.attributes == {
        "trireme.engine": "openvino",
        "triton.request.id": triton_id,
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
        "gen_ai.response.finish_reasons": ["stop", "stop"],
    }
    assert [(event.name, event.time_ns) for event in decode.events] == [("first_token", decode.began_ns)]
    assert prefill.attributes["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert 0 <= prefill.attributes["gen_ai.usage.cache_read.input_tokens"] < usage["prompt_tokens"]
    assert spans["preprocessing preprocessing"].attributes == {
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "trireme.batch_size": 1,
    }
    # One for the stream, of both sequences.
    (postprocessing,) = collected.named("postprocessing", client.trace)
    assert postprocessing.attributes["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert postprocessing.attributes["trireme.pieces"] >= 2
    spent_s = (postprocessing.ended_ns - postprocessing.began_ns) / 1e9
    assert 0 < postprocessing.attributes["trireme.busy_seconds"] < spent_s


def test_each_prompt_has_a_call_of_its_own(collected: Collector, traced: Gateway) -> None:
    client = Client.new()
    complete(traced, [ask("Reverse: one"), ask("Reverse: two"), ask("Reverse: three")], client.headers)
    spans_of(collected, client, count=3)
    request = collected.named("text_completion ensemble", client.trace)[0]
    calls = collected.named("infer server-1", client.trace)
    assert {span.parent for span in calls} == {request.id}
    for name in ("preprocessing", "prefill", "decode", "postprocessing"):
        assert {span.parent for span in collected.named(name, client.trace)} == {call.id for call in calls}
    assert len(calls) == 3
    assert len(request.attributes["gen_ai.response.finish_reasons"]) == 3


def test_a_hit_in_the_cache_asks_no_server(collected: Collector, traced: Gateway) -> None:
    outcomes = []
    for _ in range(2):
        client = Client.new()
        chat(traced, "Reverse: kept", {"traceparent": client.headers["traceparent"]}, **GREEDY)
        (request,) = collected.wait(lambda span, client=client: span.parent == client.span)  # type: ignore[misc]
        children = [span for span in collected.spans if span.parent == request.id]
        outcomes.append((request.attributes["trireme.cache"], len(children)))
        assert request.attributes["gen_ai.usage.output_tokens"] > 0
    assert outcomes == [("miss", 2), ("hit", 0)]


def test_a_request_without_a_client_s_span_begins_a_trace(collected: Collector, traced: Gateway) -> None:
    for number, headers in enumerate(({}, {"traceparent": "00-no-such-thing"}, {"traceparent": "x" * 5000})):
        name = f"root-{number}"
        chat(traced, TEXT, {**headers, "x-request-id": name})
        (request,) = collected.wait(
            lambda span, name=name: span.attributes.get("trireme.request.id") == name  # type: ignore[misc]
        )
        assert request.parent == ""
        collected.wait(lambda span, request=request: span.trace == request.trace and span.name == "decode")  # type: ignore[misc]


def test_what_a_client_does_not_sample_is_not_sent(collected: Collector, traced: Gateway) -> None:
    silent, after = Client.new(sampled=False), Client.new()
    assert chat(traced, TEXT, silent.headers).status == 200
    chat(traced, TEXT, after.headers)
    spans_of(collected, after, "decode")
    assert not [span for span in collected.spans if span.trace == silent.trace]


@pytest.mark.parametrize(
    ("fields", "status", "kind", "is_error"),
    [
        ({"temperature": 9}, 400, "invalid_value", False),
        ({"model": "other"}, 404, "model_not_found", False),
        ({"max_tokens": 1_000_000, "messages": [{"role": "user", "content": "x " * 4000}]}, 400, None, False),
    ],
)
def test_a_failure_says_its_kind(
    collected: Collector, traced: Gateway, fields: dict[str, object], status: int, kind: str | None, is_error: bool
) -> None:
    client = Client.new()
    answer = chat(traced, TEXT, client.headers, **fields)
    assert answer.status == status
    (request,) = collected.wait(lambda span: span.parent == client.span)
    assert request.attributes["http.response.status_code"] == status
    assert request.attributes["error.type"] == (kind or answer.error["code"])
    assert request.is_error == is_error
    assert request.name in ("chat", "chat ensemble")


def test_what_its_client_leaves_is_told_to_its_end(collected: Collector, traced: Gateway) -> None:
    client = Client.new()
    headers = [f"traceparent: {client.headers['traceparent']}"]
    fields = {"prompt": ask("Count from 1 to 99."), "max_tokens": 1900, "ignore_eos": True}
    with open_stream(traced, fields, headers=headers) as connection:
        read_until(connection, b"data: ")
    spans = spans_of(collected, client, "decode")
    request, call = spans["gateway text_completion ensemble"], spans["gateway infer server-1"]
    assert (request.attributes["http.response.status_code"], request.attributes["error.type"]) == (499, "client_left")
    assert call.attributes["error.type"] == "CancelledError"
    decode = spans["tensorrt_llm decode"]
    assert decode.attributes["error.type"] == "cancelled_by_client"
    assert decode.attributes["gen_ai.usage.output_tokens"] < 1900


def test_a_stop_text_leaves_all_phases(collected: Collector, traced: Gateway) -> None:
    client = Client.new()
    answer = complete(traced, ask("Count from 1 to 9."), client.headers, stop=["5"], stream=True, **GREEDY)
    assert "5" not in answer.text
    spans = spans_of(collected, client, "decode")
    assert spans["tensorrt_llm prefill"].ended_ns == spans["tensorrt_llm decode"].began_ns
    assert not spans["tensorrt_llm decode"].is_error


def test_neither_prompts_nor_answers_nor_keys_are_in_it(collected: Collector, traced: Gateway) -> None:
    client = Client.new()
    answer = chat(traced, TEXT, client.headers, user="somebody-s-name", **GREEDY)
    assert len(answer.text) > 5
    spans_of(collected, client, "decode")
    for body in collected.bodies:
        for secret in ("unmistakable", answer.text, "Count from", KEY, "somebody"):
            assert secret.encode() not in body


def test_models_take_the_context_of_any_client(collected: Collector, traced_server: Server) -> None:
    """Not of the gateway only: over `/generate`, and through `ensemble_unary`."""
    clients = {model: Client.new() for model in ("ensemble", "ensemble_unary")}
    for model, client in clients.items():
        assert "dlo" in generate(traced_server, model, client.headers["traceparent"])
    for client in clients.values():
        collected.wait(lambda span, client=client: span.parent == client.span, 5)  # type: ignore[misc]
        found = {span.name for span in collected.spans if span.trace == client.trace}
        assert found == {"preprocessing", "queue", "prefill", "decode", "postprocessing"}


def generate(server: Server, model: str, traceparent: object) -> str:
    body = {"text_input": ask("Reverse: old"), "max_tokens": 20, "traceparent": traceparent}
    request = urllib.request.Request(f"{server.http}/v2/models/{model}/generate", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as response:
        return str(json.loads(response.read())["text_output"])


@pytest.mark.parametrize("odd", ["", "00-1-2-01", "ff-" + "1" * 32 + "-" + "1" * 16 + "-01", 7, "x" * 10_000])
def test_an_odd_context_disturbs_no_model(traced_server: Server, odd: object) -> None:
    assert "dlo" in generate(traced_server, "ensemble", odd)


def test_nothing_is_sent_when_off(collected: Collector, traced_server: Server, tmp_path: Path) -> None:
    """Not even by the models that would."""
    client, after = Client.new(), Client.new()
    with started_gateway(tmp_path, *server_options(traced_server)) as off:
        assert chat(off, TEXT, client.headers).status == 200
    generate(traced_server, "ensemble", after.headers["traceparent"])
    collected.wait(lambda span: span.trace == after.trace and span.name == "decode")
    assert not [span for span in collected.spans if span.trace == client.trace]


def test_nothing_is_imported_when_off() -> None:
    # The client of Redis imports other parts.
    code = (
        "import sys, trireme_gateway.web.server, trireme_runtime.tracing\n"
        "from trireme_gateway.settings import TraceSettings\n"
        "from trireme_gateway.traces import traces_of\n"
        "assert traces_of(TraceSettings()) is None\n"
        "assert trireme_runtime.tracing.model_traces('preprocessing', {}, print) is None\n"
        "parts = ('opentelemetry.sdk.trace', 'opentelemetry.exporter')\n"
        "print([name for name in sys.modules if name.startswith(parts)])"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_settings_name_a_collector_and_a_share(collected: Collector, traced_server: Server, tmp_path: Path) -> None:
    server = f'[[server]]\nname = "a"\ngrpc = "{traced_server.grpc}"\nhealth = "{traced_server.addresses["health"]}"\n'
    config = f'{server}[traces]\nendpoint = "{collected.url}/"\nsample = 0.0\n'
    chosen = Client.new()
    with started_gateway(tmp_path, config=config) as seldom:
        for _ in range(5):
            assert chat(seldom, TEXT, {"x-request-id": "by-chance"}).status == 200
        # The client decides where it says so.
        chat(seldom, TEXT, chosen.headers)
        spans = spans_of(collected, chosen, "decode")
        assert "gateway infer a" in spans
        assert seldom.config is not None
        seldom.config.write_text(server)
        seldom.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "were read again" in seldom.log)
        off = Client.new()
        chat(seldom, TEXT, off.headers)
    assert not [span for span in collected.spans if span.attributes.get("trireme.request.id") == "by-chance"]
    assert not [span for span in collected.spans if span.trace == off.trace]


@pytest.mark.alone
@pytest.mark.parametrize("kind", ["gone", "hangs"])
def test_a_collector_that_does_not_answer_disturbs_nobody(traced_server: Server, tmp_path: Path, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        if kind == "gone":
            listening.close()
        env = {otlp.ENDPOINT_VARIABLE: url, otlp.COLLECT_VARIABLE: "100"}
        with started_gateway(tmp_path, *server_options(traced_server), env=env) as gateway:
            times_s = []
            deadline = time.monotonic() + 1.2
            while time.monotonic() < deadline:
                began = time.monotonic()
                assert chat(gateway, "Reverse: quick", {"x-request-id": "q"}, **GREEDY).status == 200
                times_s.append(time.monotonic() - began)
                time.sleep(0.01)
            began = time.monotonic()
            gateway.process.send_signal(signal.SIGTERM)
            gateway.process.wait(timeout=30)
            ended_s = time.monotonic() - began
    assert sorted(times_s)[len(times_s) // 2] < 0.1
    assert max(times_s[1:]) < 1.0
    assert ended_s < 3.0
    assert len(re.findall("traces: ", gateway.log)) <= 1


def test_the_variables_of_the_standard(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (otlp.ENDPOINT_VARIABLE, otlp.TRACES_ENDPOINT_VARIABLE, otlp.DISABLED_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    assert otlp.url_of_environment() is None
    assert traces_of(TraceSettings()) is None
    monkeypatch.setenv(otlp.ENDPOINT_VARIABLE, "http://collector:4318/")
    assert otlp.url_of_environment() == "http://collector:4318/v1/traces"
    monkeypatch.setenv(otlp.TRACES_ENDPOINT_VARIABLE, "http://other/here")
    assert otlp.url_of_environment() == "http://other/here"
    monkeypatch.setenv(otlp.DISABLED_VARIABLE, "true")
    assert otlp.url_of_environment() is None
