"""JSON schemas as EBNF grammars, in the notation of xgrammar.

JSON is compact: without white space between its parts, and with at most 15 digits in a row, so that a small model does
not lose itself in either. Members come in the order of the schema. Every keyword is enforced, or says nothing about
values, or is refused by name.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from trireme_runtime.contract import Refusal, invalid

#: Digits of a number: every integer of so many is exact in a double, too (RFC 7493, section 2.2).
MAX_DIGITS = 15
_LARGEST = 10**MAX_DIGITS - 1

#: RFC 8259.
_JSON = rf"""value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{{" (member ("," member)*)? "}}"
member ::= string ":" value
array ::= "[" (value ("," value)*)? "]"
string ::= "\"" char* "\""
char ::= [^"\\\u0000-\u001f] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F])
number ::= integer ("." [0-9]{{1,{MAX_DIGITS}}})? ([eE] [+-]? [0-9]{{1,2}})?
integer ::= "-"? ("0" | [1-9] [0-9]{{0,{MAX_DIGITS - 1}}})
"""

#: Any JSON object.
JSON_OBJECT = "root ::= object\n" + _JSON

#: Keywords that say nothing about values.
_ANNOTATIONS = frozenset(
    "$schema $id $comment $defs definitions title description default examples deprecated readOnly writeOnly".split()
)

_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_KEYWORDS_OF_TYPE: Mapping[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "integer": _BOUNDS,
    "number": frozenset(),
    "boolean": frozenset(),
    "null": frozenset(),
}

_DATE = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"

#: The formats that are enforced, as patterns (RFC 3339, RFC 4122); dates end with the 28th, which every month has.
_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "uuid": "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
}

#: The parts of a pattern that can match neither a quotation mark nor a backslash, which JSON would have to escape.
_PATTERN_PART = re.compile(
    r"(?P<set>\[(?:[a-z]-[a-z]|[A-Z]-[A-Z]|[0-9]-[0-9]|[A-Za-z0-9 _:,;/.+@]|-(?=\]))+\])"
    r"|(?P<escape>\\[dw.+*?()\[\]{}|/^$-])|(?P<operator>[()|+*?]|\{\d+(?:,\d*)?\})|(?P<plain>[^\\\[\](){}|+*?.^$\"\x00-\x1f])"
)
_ESCAPES = {"d": "[0-9]", "w": "[A-Za-z0-9_]"}


def escaped(character: str) -> str:
    """A character as it is written in EBNF."""
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def quoted(text: str) -> str:
    """A text as it is written in EBNF. Raises Refusal for characters that cannot be matched."""
    for character in text:
        if character == "\0" or "\ud800" <= character <= "\udfff":
            raise invalid(f"guided_decoding_guide: {character!a} cannot be matched")
    return '"' + "".join(map(escaped, text)) + '"'


def schema_grammar(schema: Any) -> str:
    """The grammar of a parsed JSON schema, whose rule `root` is the whole.

    Raises Refusal naming the place of what is no schema, or cannot be enforced.
    """
    return _Grammar(schema).text


class _Grammar:
    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._rules: list[str] = []
        self._references: dict[str, str] = {}
        root = self._expression(schema, "#")
        self.text = f"root ::= {root}\n" + "".join(self._rules) + _JSON

    def _rule(self, body: str) -> str:
        name = f"r{len(self._rules)}"
        self._rules.append(f"{name} ::= {body}\n")
        return name

    def _expression(self, schema: Any, path: str) -> str:
        """The expression of a schema, fit to stand beside others."""
        if schema is True:
            return "value"
        if not isinstance(schema, dict):
            raise _refusal(path, f"is {json.dumps(schema)[:40]}; an object is needed")
        keywords = schema.keys() - _ANNOTATIONS
        for keyword in ("$ref", "enum", "const", "anyOf", "allOf"):
            if keyword in keywords:
                _refuse_keywords(
                    keywords - {keyword, "type" if keyword in ("enum", "const") else keyword}, path, keyword
                )
                return self._alone(keyword, schema, path)
        if "type" not in schema:
            _refuse_keywords(keywords, path, "no type")
            return "value"
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        for kind in types:
            if not isinstance(kind, str) or kind not in _KEYWORDS_OF_TYPE:
                raise _refusal(path, f"type is {json.dumps(kind)}; it is no JSON type")
        if not types:
            raise _refusal(path, "type is empty; no value matches it")
        allowed = frozenset[str]().union(*(_KEYWORDS_OF_TYPE[kind] for kind in types))
        if "number" in types:
            allowed -= _BOUNDS
        _refuse_keywords(keywords - allowed - {"type"}, path, f"type {' or '.join(types)}")
        return f"({' | '.join(self._typed(kind, schema, path) for kind in types)})"

    def _alone(self, keyword: str, schema: dict[str, Any], path: str) -> str:
        value = schema[keyword]
        if keyword == "$ref":
            return self._reference(value, path)
        if keyword == "const":
            return _literals([value], schema, path)
        if not isinstance(value, list) or not value:
            raise _refusal(path, f"{keyword} is {json.dumps(value)[:40]}; a list with at least one entry is needed")
        if keyword == "enum":
            return _literals(value, schema, path)
        if keyword == "allOf" and len(value) > 1:
            raise _refusal(path, "allOf has several entries, which are not enforced together")
        options = [self._expression(option, f"{path}/{keyword}/{index}") for index, option in enumerate(value)]
        return f"({' | '.join(options)})"

    def _reference(self, target: Any, path: str) -> str:
        if target in self._references:
            return self._references[target]
        schema = self._schema
        parts = target.split("/") if isinstance(target, str) else [""]
        if parts[0] != "#" or (len(parts) > 1 and (len(parts) != 3 or parts[1] not in ("$defs", "definitions"))):
            raise _refusal(path, f"$ref is {json.dumps(target)[:60]}; known are # and #/$defs/NAME")
        for part in parts[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(schema, dict) or name not in schema:
                raise _refusal(path, f"$ref is {json.dumps(target)[:60]}; there is no such schema")
            schema = schema[name]
        # The name first: a schema may refer to itself.
        name = self._references[target] = f"ref{len(self._references)}"
        self._rules.append(f"{name} ::= {self._expression(schema, target)}\n")
        return name

    def _typed(self, kind: str, schema: dict[str, Any], path: str) -> str:
        if kind == "object":
            return self._object(schema, path)
        if kind == "array":
            return self._array(schema, path)
        if kind == "string":
            return self._string(schema, path)
        if kind == "integer" and schema.keys() & _BOUNDS:
            return pattern_expression(_bounded(schema, path), path)
        return {"boolean": '("true" | "false")', "null": '"null"'}.get(kind, kind)

    def _object(self, schema: dict[str, Any], path: str) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        more = schema.get("additionalProperties", True)
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise _refusal(path, "properties must be an object, and required a list")
        if not properties and not required:
            if more is False:
                return '"{}"'
            value = self._rule(f'string ":" {self._expression(more, f"{path}/additionalProperties")}')
            return f'("{{" ({value} ("," {value})*)? "}}")'
        members = {name: (value, f"{path}/properties/{name}") for name, value in properties.items()}
        for name in required:
            if name not in members:
                if more is False or not isinstance(name, str):
                    raise _refusal(path, f"required has {json.dumps(name)[:60]}, which properties has not")
                members[name] = (more, f"{path}/additionalProperties")
        # From the last member on: what follows after a member, and what follows if none came before.
        after, first = '""', '""'
        for name, (value, place) in reversed(members.items()):
            key = quoted(json.dumps(name, ensure_ascii=False) + ":")
            member = self._rule(f"{key} {self._expression(value, place)}")
            optional = name not in required
            after, first = (
                self._rule(f'"," {member} {after}' + (f" | {after}" if optional else "")),
                self._rule(f"{member} {after}" + (f" | {first}" if optional else "")),
            )
        return f'("{{" {first} "}}")'

    def _array(self, schema: dict[str, Any], path: str) -> str:
        head = schema.get("prefixItems", [])
        if not isinstance(head, list):
            raise _refusal(path, "prefixItems must be a list")
        least, most = _count(schema, "minItems", path) or 0, _count(schema, "maxItems", path)
        items = schema.get("items", True)
        if items is False:
            most = len(head) if most is None else min(most, len(head))
        if most is not None and (most < least or most < len(head)):
            raise _refusal(path, f"no array that begins with all of prefixItems has {least} to {most} items")
        parts = [self._expression(value, f"{path}/prefixItems/{index}") for index, value in enumerate(head)]
        if items is not False:
            # What need not be there after a beginning is left out.
            most = max(least, len(head)) if head and "items" not in schema else most
            if most is None or most > len(head):
                item = self._rule(self._expression(items, f"{path}/items"))
                return self._repeated(
                    parts, item, max(0, least - len(head)), None if most is None else most - len(head)
                )
        return "(" + " ".join(['"["', *_with_commas(parts), '"]"']) + ")"

    @staticmethod
    def _repeated(head: list[str], item: str, least: int, most: int | None) -> str:
        if head:
            limit = f"{{{least},{'' if most is None else most}}}"
            return "(" + " ".join(['"["', *_with_commas(head), f'("," {item}){limit}', '"]"']) + ")"
        limit = f"{{{max(0, least - 1)},{'' if most is None else most - 1}}}"
        inner = f'{item} ("," {item}){limit}'
        return f'("[" {inner} "]")' if least else f'("[" ({inner})? "]")'

    def _string(self, schema: dict[str, Any], path: str) -> str:
        pattern = schema.get("pattern")
        if "format" in schema:
            if schema["format"] not in _FORMATS:
                known = ", ".join(sorted(_FORMATS))
                raise _refusal(path, f"format is {json.dumps(schema['format'])[:40]}; enforced are {known}")
            pattern = _FORMATS[schema["format"]]
        if pattern is not None:
            if schema.keys() & {"minLength", "maxLength"} or {"pattern", "format"} <= schema.keys():
                raise _refusal(path, "has pattern or format and something else; one of them is enforced")
            if not isinstance(pattern, str):
                raise _refusal(path, f"pattern is {json.dumps(pattern)[:40]}; a text is needed")
            inner = pattern.removeprefix("^").removesuffix("$") if "format" not in schema else pattern
            return f'("\\"" {pattern_expression(inner, path)} "\\"")'
        least, most = _count(schema, "minLength", path) or 0, _count(schema, "maxLength", path)
        if most is not None and most < least:
            raise _refusal(path, f"no text has {least} to {most} characters")
        if not least and most is None:
            return "string"
        return f'("\\"" char{{{least},{"" if most is None else most}}} "\\"")'


def _with_commas(parts: list[str]) -> list[str]:
    return [piece for index, part in enumerate(parts) for piece in (['","', part] if index else [part])]


def _refusal(path: str, problem: str) -> Refusal:
    return invalid(f"guided_decoding_guide: in the schema at {path}: {problem}")


def _refuse_keywords(keywords: set[str], path: str, beside: str) -> None:
    if keywords:
        raise _refusal(path, f"the keyword {sorted(keywords)[0]!r} is not enforced beside {beside}")


def _count(schema: dict[str, Any], keyword: str, path: str) -> int | None:
    value = schema.get(keyword)
    if value is not None and (type(value) is not int or value < 0):
        raise _refusal(path, f"{keyword} is {json.dumps(value)[:40]}; a whole number from 0 is needed")
    return value


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", int: "integer", float: "number", type(None): "null", list: "array", dict: "object"}
    return names[type(value)]


def _literals(values: list[Any], schema: dict[str, Any], path: str) -> str:
    types = schema.get("type", [])
    types = types if isinstance(types, list) else [types]
    for value in values:
        kind = _json_type(value)
        if types and kind not in types and not (kind == "integer" and "number" in types):
            raise _refusal(path, f"{json.dumps(value)[:40]} is not of type {' or '.join(map(str, types))}")
    return "(" + " | ".join(quoted(json.dumps(v, ensure_ascii=False, separators=(",", ":"))) for v in values) + ")"


def pattern_expression(pattern: str, path: str) -> str:
    """A pattern as an EBNF expression. Raises Refusal for what is not literal, set, group, choice or repetition."""
    parts = []
    position = 0
    while position < len(pattern):
        match = _PATTERN_PART.match(pattern, position)
        if match is None:
            raise _refusal(
                path,
                f"pattern has {pattern[position : position + 20]!r}; enforced are literals, sets that are not negated, "
                "groups, choices and repetitions",
            )
        position = match.end()
        text = match.group()
        if match.lastgroup == "plain":
            parts.append(quoted(text))
        elif match.lastgroup == "escape":
            parts.append(_ESCAPES.get(text[1], quoted(text[1])))
        elif text[0] in "*+?{":
            if not parts or parts[-1] in ("(", "|"):
                raise _refusal(path, f"pattern has {text!r} with nothing in front to repeat")
            parts[-1] += text
        else:
            parts.append(text)
    return f"({' '.join(parts)})" if parts else '""'


def _bounded(schema: dict[str, Any], path: str) -> str:
    if any(type(schema.get(key, 0)) is not int for key in _BOUNDS):
        raise _refusal(path, "has bounds that are no integers")
    lowest = max(schema.get("minimum", -_LARGEST), schema.get("exclusiveMinimum", -_LARGEST - 1) + 1, -_LARGEST)
    highest = min(schema.get("maximum", _LARGEST), schema.get("exclusiveMaximum", _LARGEST + 1) - 1, _LARGEST)
    if lowest > highest:
        raise _refusal(path, f"no integer of at most {MAX_DIGITS} digits is within its bounds")
    return integers_between(lowest, highest)


def integers_between(lowest: int, highest: int) -> str:
    """A regular expression of the integers from `lowest` to `highest`, without leading zeros."""
    choices = []
    if lowest < 0:
        choices.append(f"-({_naturals_between(max(1, -highest), -lowest)})")
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
        digits = f"[{head % 10}-{last % 10}]" if last > head else str(head % 10)
        choices.append(str(head)[:-1] + digits + (f"[0-9]{{{free}}}" if free else ""))
        lowest = (last + 1) * step
    return "|".join(choices)
