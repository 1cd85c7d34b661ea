"""Guided decoding: whatever ends by itself matches its guide, beside others that have none."""

import json
import random
import re
from typing import Any

import grpc
import jsonschema
import pytest

from raw import Raw, ask, infer_request, outputs_of
from support import Server, rounds
from trireme_client import Client
from trireme_runtime.contract import Code, Refusal

QUESTIONS = ("Sort: 9 3 7 1", "What is 37 + 58?", "Repeat: 你好 👋", "Count from 1 to 9.", "Uppercase: triton")


def random_schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    kinds = ["boolean", "null", "enum", "const", "integer", "bounded", "number", "string", "pattern", "anyOf", "format"]
    kind = rng.choice([*kinds, "array", "tuple", "object"] if depth < 2 else kinds)
    if kind == "enum":
        return {"enum": rng.sample(["red", "green", 'a "quoted" \\ word', 1, None, "你好"], 3)}
    if kind == "const":
        return {"const": rng.choice(["x", 7, True])}
    if kind == "bounded":
        lowest = rng.randint(-2000, 2000)
        return {"type": "integer", "minimum": lowest, "maximum": lowest + rng.choice([0, 7, 5000])}
    if kind == "string":
        return {"type": "string", "minLength": rng.randint(0, 2), "maxLength": rng.randint(2, 8)}
    if kind == "pattern":
        return {"type": "string", "pattern": rng.choice(["^[a-c]{2}-[0-9]{1,3}$", "^(x|yz)$", r"^\w\.\d$"])}
    if kind == "format":
        return {"type": "string", "format": rng.choice(["date", "date-time", "uuid"])}
    if kind == "tuple":
        head = [random_schema(rng, depth + 1) for _ in range(2)]
        return {"type": "array", "prefixItems": head, "items": {"type": "null"}, "minItems": rng.randint(0, 3)}
    if kind == "anyOf":
        return {"anyOf": [random_schema(rng, 2), random_schema(rng, 2)]}
    if kind == "array":
        return {"type": "array", "items": random_schema(rng, depth + 1), "minItems": 1, "maxItems": 3}
    if kind == "object":
        names = [f'k"{index}\\n' for index in range(rng.randint(1, 3))]
        properties = {name: random_schema(rng, depth + 1) for name in names}
        return {
            "type": "object",
            "properties": properties,
            "required": rng.sample(names, rng.randint(1, len(names))),
            "additionalProperties": False,
        }
    return {"type": kind}


def guided_request(rng: random.Random) -> tuple[str, Any, Any]:
    """A kind, what it must match, and the request."""
    kind = rng.choice(["json_schema", "json_schema", "json_schema", "regex", "ebnf_grammar", "choice"])
    if kind == "json_schema":
        spec: Any = {"type": "object", "properties": {"a": random_schema(rng)}, "required": ["a"]}
        guide = json.dumps(spec)
    elif kind == "regex":
        spec = guide = rng.choice([r"[a-z]{3}-\d{1,4}", r"(yes|no)( please){0,2}", r"[0-9A-F]{8}", r"日本?語{1,3}"])
    elif kind == "ebnf_grammar":
        spec = r"-?\d{1,3}([+*-]-?\d{1,3}){1,3}"
        guide = 'root ::= number (op number){1,3}\nop ::= [+*] | "-"\nnumber ::= "-"? [0-9]{1,3}\n'
    else:
        spec = rng.sample(["yes", "no", "maybe", "你好", 'say "hi"', "[a-z]*"], 3)
        guide = json.dumps(spec)
    sampling = {"temperature": rng.choice([0.7, 1.0, 1.5]), "seed": rng.getrandbits(60)} if rng.random() < 0.5 else {}
    request = infer_request(
        "ensemble",
        text_input=ask(rng.choice(QUESTIONS)),
        max_tokens=300,
        guided_decoding_guide_type=kind,
        guided_decoding_guide=guide,
        **sampling,
    )
    return kind, spec, request


def check(kind: str, spec: Any, text: str) -> None:
    if kind == "json_schema":
        jsonschema.Draft202012Validator(spec, format_checker=jsonschema.FormatChecker()).validate(json.loads(text))
    elif kind == "choice":
        assert text in spec
    else:
        assert re.fullmatch(spec, text), text


@pytest.mark.alone
def test_of_200_random_requests_all_that_stop_match_and_most_stop(server: Server, raw: Raw) -> None:
    rng = random.Random(11)
    stopped = 0
    batches = rounds(5, 50)
    for _ in range(batches):
        requests = [guided_request(rng) for _ in range(40)]
        calls = [raw.stub.ModelStreamInfer(iter([request]), timeout=240) for _, _, request in requests]
        for (kind, spec, _), call in zip(requests, calls, strict=True):
            (response,) = list(call)
            assert not response.error_message, (response.error_message, spec)
            answer = outputs_of(response.infer_response)
            if answer["finish_reason"][0] == "stop":
                stopped += 1
                check(kind, spec, answer["text_output"][0])
    assert stopped >= 30 * batches


def test_the_guide_json_gives_an_object(raw: Raw) -> None:
    answers = [
        raw.one(
            text_input=ask("Repeat: {}"), max_tokens=200, guided_decoding_guide_type="json", temperature=1.5, seed=seed
        )
        for seed in range(12)
    ]
    texts = [answer["text_output"][0] for answer in answers if answer["finish_reason"][0] == "stop"]
    assert texts
    assert all(isinstance(json.loads(text), dict) for text in texts)


def test_a_guided_answer_streams_and_can_be_several(raw: Raw) -> None:
    guide = {"guided_decoding_guide_type": "regex", "guided_decoding_guide": "[ab]{6}"}
    pieces = raw.stream(text_input=ask("Reverse: abc"), max_tokens=20, stream=True, **guide)
    assert len(pieces) > 1
    assert re.fullmatch("[ab]{6}", "".join(piece["text_output"][0] for piece in pieces))
    several = raw.one(
        text_input=ask("Reverse: abc"), max_tokens=20, num_return_sequences=4, temperature=2.0, seed=1, **guide
    )
    assert all(re.fullmatch("[ab]{6}", text) for text in several["text_output"])
    assert len(set(several["text_output"])) > 1


BAD_GUIDES = (
    ({"guided_decoding_guide_type": "jsn"}, ("guided_decoding_guide_type", "jsn", "json_schema")),
    ({"guided_decoding_guide": "x"}, ("guided_decoding_guide_type",)),
    ({"guided_decoding_guide_type": "regex"}, ("guided_decoding_guide", "missing")),
    ({"guided_decoding_guide_type": "regex", "guided_decoding_guide": "[a-c"}, ("guided_decoding_guide", "[")),
    ({"guided_decoding_guide_type": "ebnf_grammar", "guided_decoding_guide": "x"}, ("root",)),
    ({"guided_decoding_guide_type": "ebnf_grammar", "guided_decoding_guide": "root ::= root"}, ("no text",)),
    ({"guided_decoding_guide_type": "json_schema", "guided_decoding_guide": "{"}, ("JSON",)),
    ({"guided_decoding_guide_type": "json_schema", "guided_decoding_guide": '{"not": {}}'}, ("'not'", "#")),
    ({"guided_decoding_guide_type": "json_schema", "guided_decoding_guide": '{"enum": []}'}, ("enum", "at least one")),
    ({"guided_decoding_guide_type": "regex", "guided_decoding_guide": "a$b"}, ("anchor",)),
    ({"guided_decoding_guide_type": "regex", "guided_decoding_guide": r"a\\[^b好]"}, ("negated class",)),
    ({"guided_decoding_guide_type": "choice", "guided_decoding_guide": "[]"}, ("choice",)),
    ({"guided_decoding_guide_type": "json", "guided_decoding_guide": "{}"}, ("json_schema",)),
    ({"guided_decoding_guide_type": "regex", "guided_decoding_guide": "a" * 70_000}, ("70000", "65536")),
    ({"guided_decoding_guide_type": "json", "end_id": 5}, ("end_id is 5",)),
    ({"guided_decoding_guide_type": "json", "ignore_eos": True}, ("end_id is -1",)),
    ({"guided_decoding_guide_type": "json", "min_tokens": 5}, ("min_tokens is 5",)),
    ({"guided_decoding_guide_type": "json", "beam_width": 2}, ("beam_width is 2",)),
    ({"guided_decoding_guide_type": "json", "bad_words": ["x"]}, ("bad_words",)),
)


@pytest.mark.parametrize(("values", "words"), BAD_GUIDES)
def test_a_guide_that_cannot_be_followed_is_refused_by_name(
    raw: Raw, values: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(Refusal) as caught:
        raw.one(text_input="x", max_tokens=8, **values)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert all(word in caught.value.message for word in words), caught.value.message


def test_a_guide_that_explodes_holds_nobody_up(server: Server, raw: Raw, client: Client) -> None:
    call = raw.start(
        "ensemble",
        text_input="x",
        max_tokens=8,
        guided_decoding_guide_type="regex",
        guided_decoding_guide="((((a{1,1000}){1,1000}){1,1000}){1,1000})",
    )
    for _ in range(5):
        assert client.generate(prompt=ask("Reverse: abc"), max_tokens=8).text == "cba"
    (response,) = list(call)
    assert "takes more than 2 s to compile" in response.error_message
    # Cancelled while it waits for the check: nothing of it is left.
    waiting = raw.start(
        "ensemble", text_input="x", max_tokens=8, guided_decoding_guide_type="json_schema", guided_decoding_guide="{}"
    )
    waiting.cancel()
    with pytest.raises(grpc.RpcError):
        list(waiting)
    assert client.generate(prompt=ask("Reverse: abc"), max_tokens=8).text == "cba"


def test_a_schema_that_refers_to_itself(raw: Raw) -> None:
    spec = {
        "type": "object",
        "properties": {
            "v": {"type": "integer", "minimum": 0, "maximum": 9},
            "n": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        },
        "required": ["v", "n"],
        "additionalProperties": False,
    }
    stopped = 0
    for seed in range(12):
        answer = raw.one(
            text_input=ask("Repeat: {}"),
            max_tokens=300,
            temperature=1.5,
            seed=seed,
            guided_decoding_guide_type="json_schema",
            guided_decoding_guide=json.dumps(spec),
        )
        if answer["finish_reason"][0] == "stop":
            stopped += 1
            check("json_schema", spec, answer["text_output"][0])
    assert stopped
