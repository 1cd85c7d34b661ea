"""What an answer must match, or must not contain, in the forms that OpenVINO GenAI's structured output takes.

JSON is compact: without white space between its parts, and with at most 15 digits in a row, so that a small model does
not lose itself in either. A JSON schema becomes a regular expression (outlines-core); a keyword that it does not
enforce is refused by name.
"""

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from trireme_runtime.automaton import WordAutomaton
from trireme_runtime.contract import invalid

from .base import Guide, GuideKind

#: RFC 8259, without white space between its parts.
_JSON_OBJECT = r"""root ::= object
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" (member ("," member)*)? "}"
member ::= string ":" value
array ::= "[" (value ("," value)*)? "]"
string ::= "\"" ([^"\\\u0000-\u001f] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F]))* "\""
number ::= "-"? ("0" | [1-9] [0-9]{0,14}) ("." [0-9]{1,15})? ([eE] [+-]? [0-9]{1,2})?
"""

#: Keywords that say something about a schema and nothing about its values.
_ANNOTATIONS = frozenset(
    "$schema $id $anchor $comment $defs definitions title description default examples deprecated readOnly"
    " writeOnly".split()
)

_KEYWORDS_OF_TYPE: Mapping[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties", "minProperties", "maxProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "number": frozenset(),
    "boolean": frozenset(),
    "null": frozenset(),
}

_BOUNDS = _KEYWORDS_OF_TYPE["integer"]

#: Formats that become a pattern; others are annotations in JSON Schema, and refused here.
_FORMATS = frozenset({"date-time", "date", "uuid"})

#: Patterns that can match neither a quotation mark nor a backslash, which would have to be escaped within JSON.
_PLAIN_PATTERN = re.compile(
    r"\^?(?:[A-Za-z0-9 _:,;/@#%&=<>!~'-]|\\[dw.+*?()\[\]{}|/-]|[(){}|+*?]"
    r"|\[(?:[a-z]-[a-z]|[A-Z]-[A-Z]|[0-9]-[0-9]|[A-Za-z0-9 _:,;/.+@]|\\[dw.-])+\])*\$?"
)

#: A negated class with a character beyond ASCII, which the engine takes for one without it.
_FOREIGN_NEGATION = re.compile(r"(?<!\\)(?:\\\\)*\[\^(?:[^\]\\]|\\.)*?(?:[^\x00-\x7f]|\\[uU]|\\x[89a-fA-F])")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')

#: Digits of a number: every integer of so many is exact in a double, too (RFC 7493, section 2.2).
_MAX_DIGITS = 15
_LARGEST = 10**_MAX_DIGITS - 1
_INTEGER = f"-?(0|[1-9][0-9]{{0,{_MAX_DIGITS - 1}}})"
_NUMBER = rf"{_INTEGER}(\.[0-9]{{1,{_MAX_DIGITS}}})?([eE][+-]?[0-9]{{1,2}})?"


@dataclass(frozen=True)
class Constraint:
    """What the engine is given: `form` is the field of its StructuredOutputConfig."""

    form: Literal["regex", "grammar"]
    text: str


def constraint_of(guide: Guide | None, bad_strings: tuple[str, ...], endless: bool) -> Constraint | None:
    """The constraint of a request, None if there is none; `endless` if no id ends it.

    Raises Refusal for a guide that is no valid one of its kind, or asks for what cannot be enforced.
    """
    if guide is None:
        return Constraint("grammar", grammar_without(bad_strings, endless)) if bad_strings else None
    if guide.kind is GuideKind.JSON:
        return Constraint("grammar", _JSON_OBJECT)
    if guide.kind is GuideKind.JSON_SCHEMA:
        return _schema_constraint(guide.text)
    if guide.kind is GuideKind.CHOICE:
        return Constraint("grammar", f"root ::= {' | '.join(map(_quoted, _choices(guide.text)))}\n")
    if _FOREIGN_NEGATION.search(_QUOTED.sub("", guide.text) if guide.kind is GuideKind.GRAMMAR else guide.text):
        raise invalid("guided_decoding_guide: a negated class holds a character beyond ASCII, which is not enforced")
    return Constraint("regex" if guide.kind is GuideKind.REGEX else "grammar", guide.text)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid(f"guided_decoding_guide: no valid JSON ({error})") from None


def _choices(text: str) -> list[str]:
    choices = _parsed(text)
    if not isinstance(choices, list) or not choices or not all(isinstance(c, str) and c for c in choices):
        raise invalid("guided_decoding_guide: a choice is a JSON list of at least one non-empty string")
    return choices


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _quoted(text: str) -> str:
    return '"' + "".join(map(_escaped, text)) + '"'


def _schema_constraint(text: str) -> Constraint:
    from outlines_core import json_schema

    schema = _parsed(text)
    if not isinstance(schema, dict):
        raise invalid("guided_decoding_guide: a JSON schema is a JSON object")
    rewriter = _Rewriter()
    try:
        pattern = json_schema.build_regex_from_schema(json.dumps(rewriter.rewrite(schema, "#")), "")
    except (ValueError, TypeError, RecursionError) as error:
        raise invalid(f"guided_decoding_guide: no usable JSON schema: {error}") from None
    pattern = pattern.replace(json_schema.NUMBER, _NUMBER).replace(json_schema.INTEGER, _INTEGER)
    for placeholder, integers in rewriter.patterns.items():
        pattern = pattern.replace(f'"{placeholder}"', integers)
    # The engine's regular expressions take no negated class that ends above 0x7f; JSON allows those characters.
    return Constraint("regex", pattern.replace(r"\x7F-\x9F", r"\x7F"))


class _Rewriter:
    """Checks that every keyword of a schema is enforced, and takes bounds of integers out of it.

    A bounded integer becomes a constant, the key in `patterns` of the regular expression to put in its place.
    """

    def __init__(self) -> None:
        self.patterns: dict[str, str] = {}

    def rewrite(self, schema: Any, path: str) -> Any:
        """The schema as outlines-core enforces it; `path` says where it lies in the whole."""
        if not isinstance(schema, dict):
            raise invalid(f"guided_decoding_guide: {path} is {json.dumps(schema)[:40]}; an object is needed")
        schema = {
            **schema,
            **{
                key: {name: self.rewrite(value, f"{path}/{key}/{name}") for name, value in schema[key].items()}
                for key in ("$defs", "definitions")
                if isinstance(schema.get(key), dict)
            },
        }
        keywords = schema.keys() - _ANNOTATIONS
        for alone in ("$ref", "enum", "const", "anyOf", "oneOf"):
            if alone in keywords:
                self._refuse(
                    keywords - {alone, *({"type"} if alone in ("enum", "const") else ())}, path, f"with {alone}"
                )
                if alone in ("anyOf", "oneOf"):
                    options = [self.rewrite(s, f"{path}/{alone}/{i}") for i, s in enumerate(schema[alone])]
                    # Which one matches is for the model to choose: oneOf is enforced as anyOf.
                    return {**{k: v for k, v in schema.items() if k != alone}, "anyOf": options}
                return schema
        types = schema.get("type")
        if types is None:
            self._refuse(keywords, path, "without type")
            return schema
        allowed: set[str] = {"type"}
        for kind in types if isinstance(types, list) else [types]:
            if not isinstance(kind, str) or kind not in _KEYWORDS_OF_TYPE:
                raise invalid(f"guided_decoding_guide: {path}/type is {json.dumps(kind)}; it is no JSON type")
            allowed |= _KEYWORDS_OF_TYPE[kind]
        self._refuse(keywords - allowed, path, f"of type {types if isinstance(types, str) else ' or '.join(types)}")
        return self._typed(schema, path)

    def _typed(self, schema: dict[str, Any], path: str) -> dict[str, Any]:
        if "format" in schema and schema["format"] not in _FORMATS:
            raise invalid(
                f"guided_decoding_guide: {path}/format is {json.dumps(schema['format'])}; "
                f"enforced are {', '.join(sorted(_FORMATS))}"
            )
        if "pattern" in schema and schema.keys() & {"minLength", "maxLength", "format"}:
            raise invalid(f"guided_decoding_guide: {path} has pattern and a length or format; one of them is enforced")
        if not _PLAIN_PATTERN.fullmatch(schema.get("pattern", "")):
            raise invalid(
                f"guided_decoding_guide: {path}/pattern is {json.dumps(schema['pattern'])[:60]}; enforced are patterns "
                "of letters, digits, groups, and classes that are not negated"
            )
        if schema.keys() & _BOUNDS:
            return self._bounded(schema, path)
        result = dict(schema)
        if isinstance(schema.get("properties"), dict):
            result["properties"] = {
                name: self.rewrite(value, f"{path}/properties/{name}") for name, value in schema["properties"].items()
            }
        for key in ("items", "additionalProperties"):
            if isinstance(schema.get(key), dict):
                result[key] = self.rewrite(schema[key], f"{path}/{key}")
        if isinstance(schema.get("prefixItems"), list):
            result["prefixItems"] = [
                self.rewrite(value, f"{path}/prefixItems/{i}") for i, value in enumerate(schema["prefixItems"])
            ]
        return result

    def _bounded(self, schema: dict[str, Any], path: str) -> dict[str, Any]:
        if schema["type"] != "integer" or any(type(schema.get(key, 0)) is not int for key in _BOUNDS):
            raise invalid(f"guided_decoding_guide: {path} has bounds; enforced are integers as bounds of type integer")
        lowest = max(schema.get("minimum", -_LARGEST), schema.get("exclusiveMinimum", -_LARGEST - 1) + 1, -_LARGEST)
        highest = min(schema.get("maximum", _LARGEST), schema.get("exclusiveMaximum", _LARGEST + 1) - 1, _LARGEST)
        if lowest > highest:
            raise invalid(f"guided_decoding_guide: {path}: no integer of at most {_MAX_DIGITS} digits is in its bounds")
        placeholder = secrets.token_hex(16)
        self.patterns[placeholder] = integers_between(lowest, highest)
        return {"const": placeholder}

    @staticmethod
    def _refuse(keywords: set[str], path: str, where: str) -> None:
        if keywords:
            raise invalid(
                f"guided_decoding_guide: the keyword {sorted(keywords)[0]!r} at {path} {where} is not enforced"
            )


def integers_between(lowest: int, highest: int) -> str:
    """A regular expression of the integers from `lowest` to `highest`, without leading zeros."""
    choices = []
    if lowest < 0:
        below = _naturals_between(max(1, -highest), -lowest)
        choices.append(f"-({below})")
    if highest >= 0:
        choices.append(_naturals_between(max(0, lowest), highest))
    return f"({'|'.join(choices)})"


def _naturals_between(lowest: int, highest: int) -> str:
    """The same for integers from 0 on: ranges in which the last digits are free."""
    choices = []
    while lowest <= highest:
        # The largest power of ten by which the range can go on from `lowest` with any last digits.
        free = 0
        while lowest % 10 ** (free + 1) == 0 and lowest + 10 ** (free + 1) - 1 <= highest and lowest > 0:
            free += 1
        step = 10**free
        head = lowest // step
        last = min(head - head % 10 + 9, (highest + 1) // step - 1)
        prefix = str(head)[:-1]
        digits = f"[{head % 10}-{last % 10}]" if last > head else str(head % 10)
        choices.append(prefix + digits + (f"[0-9]{{{free}}}" if free else ""))
        lowest = (last + 1) * step
    return "|".join(choices)


def grammar_without(words: tuple[str, ...], endless: bool) -> str:
    """An EBNF grammar of all texts without any of `words` (non-empty): a rule for each state of the search for them.

    An endless grammar has no text that is complete, so that the end is never allowed.
    """
    search = WordAutomaton(words)
    complete = [any(True for _ in search.ending_at(state)) for state in range(len(search))]
    rules = ["root ::= s0"]
    for state in range(len(search)):
        if complete[state]:
            continue
        targets: dict[int, str] = {}
        named = []
        for character, target in search.steps(state):
            targets[target] = targets.get(target, "") + _escaped(character)
            named.append(ord(character))
        choices = [] if endless else ['""']
        choices.append(f"{_all_but(named)} s0")
        choices += [f"[{characters}] s{target}" for target, characters in targets.items() if not complete[target]]
        rules.append(f"s{state} ::= {' | '.join(choices)}")
    return "\n".join(rules) + "\n"


def _all_but(codes: list[int]) -> str:
    """A class of all characters but these; not a negated one, see _FOREIGN_NEGATION.

    Surrogates stay in, though they are no characters: around a hole for them the engine finds no way on.
    """
    ranges = []
    start = 0
    for code in sorted({*codes, 0x110000}):
        if start < code:
            ranges.append(f"{_escaped(chr(start))}-{_escaped(chr(code - 1))}")
        start = code + 1
    return f"[{''.join(ranges)}]"
