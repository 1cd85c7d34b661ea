"""Types are what the signatures say; a bool is no number."""

from typing import Any


def check(name: str, value: Any, kind: str) -> None:
    """`kind`: int, float, bool, str, ids, or one of them with a question mark for None. Raises TypeError."""
    if kind.endswith("?"):
        if value is None:
            return
        kind = kind[:-1]
    fits = {
        "int": type(value) is int,
        "float": type(value) in (int, float),
        "bool": type(value) is bool,
        "str": type(value) is str,
        "ids": type(value) is list and all(type(item) is int for item in value),
    }[kind]
    if not fits:
        raise TypeError(f"{name}: {value!r} is no {kind}")
