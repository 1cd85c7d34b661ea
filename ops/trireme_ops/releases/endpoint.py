"""The acts of a `ReleaseHost` over HTTP, for whoever has the control key.

    GET  /v2/trireme/releases          its status
    POST /v2/trireme/releases/ACT      a JSON object with the act's arguments; answers with a JSON object

Refusals have {"error": ...} and a status of 4xx; 401 without the key.
"""

import inspect
import json
import secrets
from collections.abc import Mapping
from typing import Any

from trireme_runtime.contract import Refusal

from ..errors import OperatorError, Refused
from .host import ReleaseHost

ACTS = (
    "lock",
    "renew",
    "unlock",
    "document",
    "preflight",
    "load",
    "switch",
    "mark",
    "free",
    "end",
    "point",
    "start_shadow",
    "shadow_report",
    "stop_shadow",
    "drain",
    "resume",
)


def answer(host: ReleaseHost, key: str, given_key: str, act: str, body: bytes) -> tuple[int, dict[str, Any]]:
    """Do what is asked: the HTTP status, and the object to answer with. An empty `act` is the status."""
    if not secrets.compare_digest(key.encode(), given_key.encode("utf-8", "replace")):
        return 401, {"error": "the control key is missing or wrong; it stands in .trireme/control.key"}
    try:
        if not act:
            return 200, host.status()
        if act not in ACTS:
            raise Refused(f"there is no act {act[:40]!r}; there are {', '.join(ACTS)}", 404)
        return 200, dict(getattr(host, act)(**_arguments(host, act, body)))
    except Refused as error:
        return error.status, {"error": str(error)}
    except (OperatorError, Refusal) as error:
        return 400, {"error": str(error)}
    except Exception as error:
        # The supervisor goes on, and whoever asked is told.
        return 500, {"error": f"{type(error).__name__}: {error}"}


def _arguments(host: ReleaseHost, act: str, body: bytes) -> Mapping[str, Any]:
    """The arguments of an act. Raises Refused if they are not those that it takes."""
    try:
        given = json.loads(body or b"{}")
    except ValueError as error:
        raise Refused(f"the body is no JSON: {error}", 400) from None
    if not isinstance(given, dict):
        raise Refused("the body is no JSON object", 400)
    parameters = inspect.signature(getattr(host, act)).parameters
    for name in given:
        if name not in parameters:
            raise Refused(f"{act} takes no {name!r}; it takes {', '.join(parameters)}", 400)
    for name, parameter in parameters.items():
        if name not in given and parameter.default is inspect.Parameter.empty:
            raise Refused(f"{act} needs {name}", 400)
        if name in given and not _fits(given[name], parameter.annotation):
            raise Refused(f"{act}: {name} is {str(given[name])[:80]!r}", 400)
    return given


def _fits(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind == (str | None):
        return value is None or isinstance(value, str)
    return isinstance(value, kind) and (kind is not int or not isinstance(value, bool))
