"""Durations and lists of them, as people write them."""

import re

from .errors import SettingError

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")


def duration_s(text: str, name: str = "duration") -> float:
    """Seconds in `text`: `500ms`, `1.5s`, `2m`, `1h`; without a unit, seconds. Raises SettingError naming both."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise SettingError(f"{name} is {text!r}; a duration such as 500ms, 30s, 2m or 1h is needed")
    return float(match[1]) * _UNITS_S[match[2] or "s"]


def positive_s(text: str, name: str = "duration") -> float:
    """As duration_s, and more than 0."""
    value = duration_s(text, name)
    if value <= 0:
        raise SettingError(f"{name} is {text!r}; more than 0 is needed")
    return value


def number(text: str, name: str, least: float, most: float, whole: bool = False) -> float:
    """A number within limits. Raises SettingError naming them."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number"
        raise SettingError(f"{name} is {text!r}; {kind} from {least:g} to {most:g} is needed")
    return value
