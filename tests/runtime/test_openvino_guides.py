"""Guides and bad words as the engine takes them."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trireme_runtime.contract import Refusal
from trireme_runtime.engines.base import Guide, GuideKind
from trireme_runtime.engines.json_grammar import integers_between
from trireme_runtime.engines.openvino_guides import constraint_of, grammar_without

ALPHABET = 'ab好👋\n]^-\\"'
WORDS = st.lists(st.text(ALPHABET, min_size=1, max_size=4), min_size=1, max_size=4).map(tuple)


def rules_of(grammar: str) -> dict[str, tuple[bool, list[tuple[list[tuple[int, int]], str]]]]:
    """state -> (whether a text may end there, [(ranges of characters, next state)]): a reader of its own."""
    rules = {}
    for line in grammar.splitlines()[1:]:
        name, _, body = line.partition(" ::= ")
        steps = []
        for ranges, target in re.findall(r"\[((?:\\[uU][0-9a-f]+-?)+)\] (s\d+)", body):
            codes = re.findall(r"(\\[uU][0-9a-f]+)(-)?", ranges)
            values = [int(code[2:], 16) for code, _ in codes]
            pairs, index = [], 0
            while index < len(codes):
                if codes[index][1]:
                    pairs.append((values[index], values[index + 1]))
                    index += 2
                else:
                    pairs.append((values[index], values[index]))
                    index += 1
            steps.append((pairs, target))
        rules[name] = (body.startswith('""'), steps)
    return rules


def accepts(grammar: str, text: str) -> bool:
    rules = rules_of(grammar)
    state = "s0"
    for character in text:
        targets = [
            target for ranges, target in rules[state][1] if any(low <= ord(character) <= high for low, high in ranges)
        ]
        if not targets or targets[0] not in rules:
            return False
        (state,) = targets
    return rules[state][0]


@given(words=WORDS, text=st.text(ALPHABET + "x", max_size=12))
def test_the_grammar_without_words_is_all_texts_in_which_none_comes_up(words: tuple[str, ...], text: str) -> None:
    assert accepts(grammar_without(words, endless=False), text) == (not any(word in text for word in words))


def test_an_endless_grammar_has_no_end() -> None:
    assert '""' not in grammar_without(("ab", "c"), endless=True)


@given(st.integers(-3000, 3000), st.integers(0, 5000), st.integers(-9000, 9000))
def test_integers_between(lowest: int, size: int, value: int) -> None:
    pattern = re.compile(integers_between(lowest, lowest + size))
    for candidate in (value, lowest - 1, lowest, lowest + size, lowest + size + 1):
        assert bool(pattern.fullmatch(str(candidate))) == (lowest <= candidate <= lowest + size)


_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"|(\[(?:[^\]\\]|\\.)*\])|([a-z_]\w*)|(\s+)|(\{\d*,?\d*\}|[()|*+?])')


def to_regex(grammar: str) -> "re.Pattern[str]":
    """A grammar that does not recur, as a regular expression."""
    rules = dict(line.split(" ::= ", 1) for line in grammar.splitlines())

    def literal(text: str) -> str:
        codes = re.sub(r"\\u([0-9a-f]{4})|\\U([0-9a-f]{8})", lambda m: chr(int(m[1] or m[2], 16)), text)
        return re.escape(codes if codes != text else text.replace('\\"', '"').replace("\\\\", "\\"))

    def expand(body: str) -> str:
        parts = []
        for match in _TOKEN.finditer(body):
            text, characters, name, _, operator = match.groups()
            if text is not None:
                parts.append(f"(?:{literal(text)})")
            elif name is not None:
                parts.append(f"(?:{expand(rules[name])})")
            else:
                parts.append(characters or operator or "")
        return "".join(parts)

    return re.compile(expand(rules["root"]))


def schema(value: Any) -> str:
    constraint = constraint_of(Guide(GuideKind.JSON_SCHEMA, json.dumps(value)), (), endless=False)
    assert constraint is not None
    return constraint.text


BOOLS = {"a": {"type": "boolean"}, "b": {"type": "boolean"}}


@pytest.mark.parametrize(
    ("value", "good", "bad"),
    [
        ({"type": "integer"}, ["0", "-7", "123456789012345"], ["01", "1234567890123456", "1.5", " 1"]),
        ({"type": "integer", "minimum": 3}, ["3", "999"], ["2", "-3"]),
        ({"type": "integer", "exclusiveMaximum": 0}, ["-1"], ["0", "1"]),
        ({"type": "number"}, ["1.5", "-0", "1e9", "2E-7"], ["1.", ".5"]),
        ({"enum": ["a", 1, None]}, ['"a"', "1", "null"], ["a", "2"]),
        ({"const": {"k": [1, 'q"']}}, [r'{"k":[1,"q\""]}'], ['{"k":[1,"q""]}']),
        ({"type": "string", "maxLength": 3}, ['""', '"abc"', r'"\n"'], ['"abcd"', '"\n"']),
        ({"type": "string", "pattern": "^a|b$"}, ['"a"', '"b"'], ['b"', '"a', '"ab"']),
        ({"type": "string", "pattern": r"[a-c]{2}-\d+"}, ['"ab-7"'], ['"a-7"', '"ab-"']),
        ({"type": "string", "format": "date-time"}, ['"2026-11-21T22:04:05Z"'], ['"2026-11-21T22:04:05"']),
        ({"type": ["null", "boolean"]}, ["null", "true"], ["0"]),
        ({"type": "array", "items": {"type": "null"}, "minItems": 2, "maxItems": 3}, ["[null,null]"], ["[null]", "[]"]),
        ({"type": "array", "items": {"type": "null"}, "maxItems": 1}, ["[]", "[null]"], ["[null,null]"]),
        ({"type": "array", "prefixItems": [{"type": "null"}], "items": False}, ["[null]"], ["[]", "[null,1]"]),
        (
            {"type": "array", "prefixItems": [{"type": "null"}], "items": {"const": 1}, "minItems": 2},
            ["[null,1]", "[null,1,1]"],
            ["[null]"],
        ),
        (
            {"type": "object", "properties": {"a": {"type": "null"}, "b": {"const": 1}}, "required": ["b"]},
            ['{"b":1}', '{"a":null,"b":1}'],
            ["{}", '{"b": 1}', '{"a":null}', '{,"b":1}'],
        ),
        ({"type": "object", "properties": BOOLS}, ["{}", '{"b":true}', '{"a":true,"b":false}'], ['{"a":true,}']),
        ({"type": "object", "required": ["z"], "additionalProperties": {"const": 2}}, ['{"z":2}'], ["{}"]),
        ({"type": "object", "additionalProperties": False}, ["{}"], ['{"a":1}']),
        ({"type": "object", "properties": {'a"\\': {"const": 1}}, "required": ['a"\\']}, [r'{"a\"\\":1}'], []),
        (
            {"$defs": {"x/y": {"type": "integer", "minimum": 8, "maximum": 9}}, "$ref": "#/$defs/x~1y"},
            ["8", "9"],
            ["7"],
        ),
        ({"allOf": [{"type": "null"}]}, ["null"], ["1"]),
    ],
)
def test_a_schema_becomes_a_compact_grammar(value: Any, good: list[str], bad: list[str]) -> None:
    pattern = to_regex(schema(value))
    assert [text for text in good if not pattern.fullmatch(text)] == []
    assert [text for text in bad if pattern.fullmatch(text)] == []


def test_a_schema_may_refer_to_itself() -> None:
    assert "ref0 ::= " in schema({"type": "object", "properties": {"next": {"$ref": "#"}}})


def test_a_schema_with_many_optional_properties_stays_small() -> None:
    assert len(schema({"type": "object", "properties": {f"k{i}": {"type": "null"} for i in range(300)}})) < 100_000


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"type": "object", "patternProperties": {}}, "'patternProperties' is not enforced"),
        ({"type": "object", "properties": BOOLS, "minProperties": 2}, "'minProperties'"),
        ({"type": "object", "properties": BOOLS, "required": ["c"], "additionalProperties": False}, '"c"'),
        ({"allOf": [{"type": "integer"}, {}]}, "allOf has several"),
        ({"oneOf": [{"type": "integer"}]}, "'oneOf' is not enforced"),
        ({"type": "array", "items": {"type": "integer", "multipleOf": 2}}, "at #/items: the keyword 'multipleOf'"),
        ({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}, "#/properties/a"),
        ({"type": "array", "prefixItems": [{}, {}], "maxItems": 1}, "prefixItems"),
        ({"anyOf": [{"type": "number", "minimum": 0}]}, "'minimum' is not enforced"),
        ({"enum": [1], "minimum": 0}, "'minimum' is not enforced beside enum"),
        ({"enum": []}, "at least one entry"),
        ({"anyOf": []}, "at least one entry"),
        ({"type": []}, "type is empty"),
        ({"type": "string", "enum": ["x", 1]}, "1 is not of type string"),
        ({"type": "string", "minLength": -1}, "minLength is -1"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "no text has 3 to 2"),
        ({"type": "text"}, 'type is "text"'),
        ({"type": "string", "pattern": '"'}, "pattern"),
        ({"type": "string", "pattern": "[^a]"}, "pattern"),
        ({"type": "string", "pattern": "[ -~]"}, "pattern"),
        ({"type": "string", "pattern": "a.b"}, "pattern"),
        ({"type": "string", "pattern": "+a"}, "nothing in front"),
        ({"type": "string", "format": "email"}, "enforced are date"),
        ({"type": "object", "properties": {"a": 7}}, "#/properties/a: is 7"),
        ({"$ref": "#/default", "default": {}}, "$ref"),
        ({"$ref": "#/$defs/x"}, "no such schema"),
        ({"type": "integer", "minimum": 4, "maximum": 3}, "no integer"),
        ([], "is []"),
    ],
)
def test_what_a_schema_asks_for_and_cannot_have_is_named(value: Any, words: str) -> None:
    with pytest.raises(Refusal) as caught:
        schema(value)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("a^b", "anchor"),
        ("a$b", "anchor"),
        ("x(^a)", "anchor"),
        (r"\A1\Z", "unknown escape"),
        (r"\Qa\E", "unknown escape"),
        (r"a\x00b", "NUL"),
        (r"\0", "NUL"),
        ("[[:alpha:]]+", "class by name"),
        (r"\ud83d\udc4b", "surrogate"),
        ("[^好]", "negated class"),
    ],
)
def test_what_the_engine_would_misread_in_a_pattern_is_refused(pattern: str, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        constraint_of(Guide(GuideKind.REGEX, pattern), (), endless=False)


@pytest.mark.parametrize(
    "pattern", ["^abc$", r"\^a\$", "[$^]", "[^a-z]", r"\d+\.\w\s\n", "a|b", r"\\A", r"[\]^]", r"\\0"]
)
def test_other_patterns_are_taken_as_they_are(pattern: str) -> None:
    constraint = constraint_of(Guide(GuideKind.REGEX, pattern), (), endless=False)
    assert constraint is not None
    assert constraint.text == pattern


@pytest.mark.parametrize("choices", [["\ud83d"], ["a\0b"]])
def test_choices_that_cannot_be_matched_are_refused(choices: list[str]) -> None:
    with pytest.raises(Refusal, match="cannot be matched"):
        constraint_of(Guide(GuideKind.CHOICE, json.dumps(choices)), (), endless=False)
