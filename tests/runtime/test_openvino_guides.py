"""Guides and bad words as the engine takes them."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trireme_runtime.contract import Refusal
from trireme_runtime.engines.base import Guide, GuideKind
from trireme_runtime.engines.openvino_guides import constraint_of, grammar_without, integers_between

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


def schema(value: Any) -> str:
    constraint = constraint_of(Guide(GuideKind.JSON_SCHEMA, json.dumps(value)), (), endless=False)
    assert constraint is not None
    assert constraint.form == "regex"
    return constraint.text


@pytest.mark.parametrize(
    ("value", "good", "bad"),
    [
        ({"type": "integer"}, ["0", "-7", "123456789012345"], ["01", "1234567890123456", "1.5", " 1"]),
        ({"type": "integer", "minimum": 3}, ["3", "999"], ["2", "-3"]),
        ({"type": "integer", "exclusiveMaximum": 0}, ["-1"], ["0", "1"]),
        ({"type": "number"}, ["1.5", "-0", "1e9", "2E-7"], ["1.", ".5"]),
        ({"enum": ["a", 1, None]}, ['"a"', "1", "null"], ["a", "2"]),
        ({"type": "string", "maxLength": 3}, ['""', '"abc"', '"\\n"'], ['"abcd"', '"\n"']),
        ({"type": ["null", "boolean"]}, ["null", "true"], ["0"]),
        (
            {"type": "object", "properties": {"a": {"type": "null"}, "b": {"const": 1}}, "required": ["b"]},
            ['{"b":1}', '{"a":null,"b":1}'],
            ["{}", '{"b": 1}', '{"a":null}'],
        ),
        ({"$defs": {"x": {"type": "integer", "minimum": 8, "maximum": 9}}, "$ref": "#/$defs/x"}, ["8", "9"], ["7"]),
    ],
)
def test_a_schema_becomes_a_compact_pattern(value: Any, good: list[str], bad: list[str]) -> None:
    pattern = re.compile(schema(value))
    assert [text for text in good if not pattern.fullmatch(text)] == []
    assert [text for text in bad if pattern.fullmatch(text)] == []


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"type": "object", "patternProperties": {}}, "'patternProperties' at # of type object"),
        ({"allOf": [{"type": "integer"}]}, "'allOf' at # without type"),
        ({"type": "array", "items": {"type": "integer", "multipleOf": 2}}, "'multipleOf' at #/items"),
        ({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}, "#/properties/a"),
        ({"anyOf": [{"type": "number", "minimum": 0}]}, "'minimum' at #/anyOf/0"),
        ({"enum": [1], "minimum": 0}, "'minimum' at # with enum"),
        ({"type": "text"}, '#/type is "text"'),
        ({"type": "string", "pattern": '"'}, "#/pattern"),
        ({"type": "string", "pattern": "[^a]"}, "#/pattern"),
        ({"type": "string", "pattern": "[ -~]"}, "#/pattern"),
        ({"type": "string", "pattern": "a.b"}, "#/pattern"),
        ({"type": "object", "properties": {"a": True}}, "#/properties/a is true"),
    ],
)
def test_what_a_schema_asks_for_and_cannot_have_is_named(value: Any, words: str) -> None:
    with pytest.raises(Refusal) as caught:
        schema(value)
    assert words in caught.value.message
