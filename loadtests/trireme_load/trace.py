"""A trace: when requests came, and how long they and their answers were; JSON lines."""

import json
from dataclasses import dataclass
from pathlib import Path

from .errors import SettingError

#: What the fields may be called: ours, those of Mooncake's traces and those of Azure's LLM inference traces.
_TIME = {"timestamp_s": 1.0, "timestamp": 0.001, "timestamp_ms": 0.001}
_PROMPT = ("prompt_tokens", "input_length", "ContextTokens")
_ANSWER = ("output_tokens", "output_length", "GeneratedTokens")


@dataclass(frozen=True)
class Call:
    """One request of a trace. at_s: since its first one."""

    at_s: float
    prompt_tokens: int
    output_tokens: int


def read_trace(path: Path) -> list[Call]:
    """The calls of a file, in order of time, from 0. Raises SettingError naming the file and line.

    A line is `{"timestamp": ms, "input_length": tokens, "output_length": tokens}`; timestamp_s is in s.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingError(f"the trace {path} cannot be read: {reason}") from error
    calls = [_call(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not calls:
        raise SettingError(f"the trace {path} holds no request")
    calls.sort(key=lambda call: call.at_s)
    first = calls[0].at_s
    return [Call(call.at_s - first, call.prompt_tokens, call.output_tokens) for call in calls]


def _call(path: Path, number: int, line: str) -> Call:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise SettingError(f"{path}, line {number}: no JSON: {error}") from error
    if not isinstance(values, dict):
        raise SettingError(f"{path}, line {number}: {line[:60]!r} is no object")

    def number_of(names: tuple[str, ...], least: float) -> tuple[str, float]:
        name = next((name for name in names if name in values), None)
        if name is None:
            raise SettingError(f"{path}, line {number}: none of {', '.join(names)} is there")
        value = values[name]
        if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value < 1e15:
            raise SettingError(f"{path}, line {number}: {name} is {value!r}; a number from {least:g} is needed")
        return name, value

    name, at = number_of(tuple(_TIME), 0)
    return Call(at * _TIME[name], int(number_of(_PROMPT, 1)[1]), int(number_of(_ANSWER, 1)[1]))
