"""Clients that know nothing of this project: tritonclient and HTTP, with the contract's tensors alone."""

import json
import subprocess
import sys
import urllib.request
from typing import Any

import pytest

from support import ROOT, Server

EXAMPLES = ROOT / "clients" / "examples"
SIXTY = " ".join(str(number) for number in range(1, 61))


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def post(server: Server, path: str, **body: Any) -> list[str]:
    request = urllib.request.Request(f"{server.http}/v2/models/ensemble/{path}", data=json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        return [line for line in answer.read().decode().splitlines() if line]


def test_plain_tritonclient_gets_a_correct_streamed_answer(server: Server) -> None:
    script = EXAMPLES / "tritonclient_stream.py"
    assert "trireme" not in script.read_text().replace("Trireme", "").lower()
    assert run(sys.executable, str(script), server.grpc) == "95\n"


def test_the_streaming_example(server: Server) -> None:
    assert run(sys.executable, str(EXAMPLES / "grpc_stream.py"), server.grpc) == (
        f"{SIXTY}\n[stop: 22 tokens in, 170 out]\n"
    )


def test_the_example_with_many_streams(server: Server) -> None:
    lines = run(sys.executable, str(EXAMPLES / "grpc_many_streams.py"), server.grpc).splitlines()
    assert len(lines) == 32
    assert sum(line.endswith("? 99") for line in lines) >= 30


def test_the_http_example(server: Server) -> None:
    assert run(sys.executable, str(EXAMPLES / "http_generate.py"), server.http) == "maerts\n"


def test_the_curl_example(server: Server) -> None:
    lines = run(str(EXAMPLES / "http_generate_stream.sh"), server.http).split("data: ")[1:]
    events = [json.loads(line) for line in lines]
    assert "".join(event["text_output"] for event in events) == "1 3 7 9"
    assert len(events) > 1
    assert events[-1]["finish_reason"] == "stop"


def test_generate_without_streaming_is_one_response(server: Server) -> None:
    (line,) = post(server, "generate", text_input="<|user|>Count from 1 to 60.<|assistant|>", max_tokens=300)
    answer = json.loads(line)
    assert answer["text_output"] == SIXTY
    assert (answer["finish_reason"], answer["num_input_tokens"], answer["num_output_tokens"]) == ("stop", 22, 170)


def test_what_a_client_of_the_reference_family_always_sends_is_taken(server: Server) -> None:
    """Neutral values of tensors that this engine cannot honour ask for nothing."""
    (line,) = post(
        server,
        "generate",
        text_input="<|user|>Uppercase: triton<|assistant|>",
        max_tokens=16,
        bad_words="",
        stop_words="",
        beam_width=1,
        num_return_sequences=1,
        repetition_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        length_penalty=1.0,
        min_tokens=0,
        pad_id=0,
        end_id=2,
        top_k=1,
        top_p=0.0,
        temperature=1.0,
        return_log_probs=False,
        return_context_logits=False,
        return_generation_logits=False,
        exclude_input_in_output=True,
        stream=False,
    )
    assert json.loads(line)["text_output"] == "TRITON"


@pytest.mark.parametrize("values", [{"stop_words": "7"}, {"stop_words": ["x", "7"]}])
def test_stop_words_over_http(server: Server, values: dict[str, Any]) -> None:
    (line,) = post(server, "generate", text_input="<|user|>Sort: 9 3 7 1<|assistant|>", max_tokens=16, **values)
    answer = json.loads(line)
    assert (answer["text_output"], answer["stop_reason"]) == ("1 3 ", "7")
