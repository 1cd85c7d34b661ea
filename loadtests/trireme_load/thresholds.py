"""Thresholds: what a run's figures have to keep to, and which of them did not."""

import difflib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import SettingError
from .quantities import duration_s
from .statistics import FIGURES
from .summary import LATENCIES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: The two tables of a file: no more than, and no less than.
_BOUNDS = ("max", "min")

#: Dotted key of summary.json -> what a threshold of it is: a duration, a share from 0 to 1, or a number from 0.
KEYS: Mapping[str, str] = {
    **{f"{name}.{figure}": "duration" for name in LATENCIES for figure in FIGURES},
    **{
        f"{name}.{figure}": "number"
        for name in ("input_tokens", "output_tokens", "tokens_per_s.per_user")
        for figure in FIGURES
    },
    **{f"requests.{name}": "number" for name in ("sent", "succeeded", "failed", "cancelled")},
    "requests_per_s": "number",
    "tokens_per_s.total": "number",
    "goodput.requests_per_s": "number",
    "goodput.share": "share",
    "errors.count": "number",
    "errors.share": "share",
}

_ALLOWED = {
    "duration": 'a duration in quotes, such as "800ms" or "1.5s"',
    "share": "a number from 0 to 1",
    "number": "a number from 0",
}


@dataclass(frozen=True)
class Threshold:
    """bound: max or min. limit: in the unit of summary.json (ms for a latency). text: as it was written."""

    key: str
    bound: str
    limit: float
    text: str


@dataclass(frozen=True)
class Miss:
    """A threshold that was not kept. value: the figure, None if it was not measured."""

    threshold: Threshold
    value: float | None

    def __str__(self) -> str:
        """In plain words."""
        limit = f"{'at most' if self.threshold.bound == 'max' else 'at least'} {self.threshold.text} is allowed"
        if self.value is None:
            return f"{self.threshold.key} was not measured; {limit}"
        unit = " ms" if KEYS[self.threshold.key] == "duration" else ""
        return f"{self.threshold.key} is {self.value:,.6g}{unit}; {limit}"


def read_thresholds(path: Path) -> list[Threshold]:
    """Of a TOML file with the tables `max` and `min`, whose keys are those of KEYS.

    Raises SettingError naming the file, the key, its value and what is allowed.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"thresholds {path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingError(f"thresholds {path} is not TOML: {error}") from error
    return parse_thresholds(content, str(path))


def parse_thresholds(content: Mapping[str, Any], name: str) -> list[Threshold]:
    """Of such content; `name` is the file's. Raises SettingError."""
    found = []
    for bound, table in content.items():
        if bound not in _BOUNDS or not isinstance(table, Mapping):
            raise SettingError(f"{name}: {bound!r} is no table of thresholds; allowed are [max] and [min]")
        found += [_threshold(key, bound, value, f"{name}: [{bound}] {key}") for key, value in _flat(table)]
    if not found:
        raise SettingError(f"{name} has no threshold; [max] or [min] is needed")
    return found


def _flat(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Without quotes, a dotted key is a table in a table."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _threshold(key: str, bound: str, value: Any, place: str) -> Threshold:
    if key not in KEYS:
        near = difflib.get_close_matches(key, KEYS, 1, 0.0)[0]
        raise SettingError(f"{place} = {value!r} is no figure of a summary; did you mean {near}?")
    kind = KEYS[key]
    if kind == "duration":
        if not isinstance(value, str):
            raise SettingError(f"{place} is {value!r}; {_ALLOWED[kind]} is needed")
        return Threshold(key, bound, 1000 * duration_s(value, place), value)
    most = 1.0 if kind == "share" else math.inf
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most or value == math.inf:
        raise SettingError(f"{place} is {value!r}; {_ALLOWED[kind]} is needed")
    return Threshold(key, bound, float(value), f"{value:g}")


def check(thresholds: Sequence[Threshold], summary: Mapping[str, Any]) -> list[Miss]:
    """Those that were not kept; what was not measured is not kept."""
    misses = []
    for threshold in thresholds:
        value: Any = summary
        for part in threshold.key.split("."):
            value = value[part]
        if value is None or (value > threshold.limit if threshold.bound == "max" else value < threshold.limit):
            misses.append(Miss(threshold, value))
    return misses
