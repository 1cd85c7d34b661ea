"""What an answer must match, or must not contain, in the forms that OpenVINO GenAI's structured output takes."""

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from trireme_runtime.automaton import WordAutomaton
from trireme_runtime.contract import invalid

from .base import Guide, GuideKind
from .json_grammar import JSON_OBJECT, escaped, quoted, schema_grammar

#: What the engine takes for something else.
_MISREAD = (
    (
        re.compile(r"\[\^(?:[^\]\\]|\\.)*?(?:[^\x00-\x7f]|\\[uU]|\\x[89a-fA-F])"),
        "a negated class with a character beyond ASCII",
    ),
    (re.compile(r"\[:\w+:\]"), "a class by name"),
    (re.compile(r"\\u[dD][89a-fA-F]|\\u\{0*[dD][89a-fA-F]"), "a surrogate"),
    (re.compile(r"\\x00|\\u0000|\\0|\\u\{0+\}|\x00"), "the character NUL"),
)

#: Of a regular expression, besides. Escapes are classes, character codes or punctuation.
_MISREAD_IN_REGEX = (
    (re.compile(r"\\[^dDwWsSnrtfvxu\W_]"), "an unknown escape"),
    (re.compile(r"(?!\A)(?<!\[)\^|\$(?!\Z)"), "an anchor in the middle"),
)

_ESCAPED = re.compile(r"\\[^0uUxdDwWsSa-zA-Z]")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_SET = re.compile(r"\[(?:[^\]\\]|\\.)*\]")


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
        return Constraint("grammar", JSON_OBJECT)
    if guide.kind is GuideKind.JSON_SCHEMA:
        try:
            return Constraint("grammar", schema_grammar(_parsed(guide.text)))
        except RecursionError:
            raise invalid("guided_decoding_guide: the schema is nested too deeply") from None
    if guide.kind is GuideKind.CHOICE:
        return Constraint("grammar", f"root ::= {' | '.join(map(quoted, _choices(guide.text)))}\n")
    if guide.kind is GuideKind.REGEX:
        _refuse_misread(guide.text, _MISREAD)
        # A character that is escaped, or in a set, is neither an anchor nor an escape.
        _refuse_misread(_SET.sub("[]", _ESCAPED.sub("_", guide.text)), _MISREAD_IN_REGEX)
        return Constraint("regex", guide.text)
    _refuse_misread(_QUOTED.sub("", guide.text), _MISREAD)
    _refuse_misread(guide.text, _MISREAD[2:])
    return Constraint("grammar", guide.text)


def _refuse_misread(text: str, misread: tuple[tuple["re.Pattern[str]", str], ...]) -> None:
    for pattern, what in misread:
        if pattern.search(re.sub(r"\\\\", "__", text)):
            raise invalid(f"guided_decoding_guide: it holds {what}, which is not enforced")


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
            targets[target] = targets.get(target, "") + escaped(character)
            named.append(ord(character))
        choices = [] if endless else ['""']
        choices.append(f"{_all_but(named)} s0")
        choices += [f"[{characters}] s{target}" for target, characters in targets.items() if not complete[target]]
        rules.append(f"s{state} ::= {' | '.join(choices)}")
    return "\n".join(rules) + "\n"


def _all_but(codes: list[int]) -> str:
    """A class of all characters but these; not a negated one, which the engine knows for ASCII only.

    Surrogates stay in, though they are no characters: around a hole for them the engine finds no way on.
    """
    ranges = []
    start = 0
    for code in sorted({*codes, 0x110000}):
        if start < code:
            ranges.append(f"{escaped(chr(start))}-{escaped(chr(code - 1))}")
        start = code + 1
    return f"[{''.join(ranges)}]"
