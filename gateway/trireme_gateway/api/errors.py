"""Errors as OpenAI's clients expect them.

The codes of the contract (CONTRACT.md) become HTTP statuses: INVALID_ARGUMENT 400, NOT_FOUND 404, RESOURCE_EXHAUSTED
429, DEADLINE_EXCEEDED 504, UNAVAILABLE 503, CANCELLED and INTERNAL 500.
"""

import json
import math
from typing import Any

from trireme_client import (
    Cancelled,
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    TriremeError,
    Unavailable,
)

from ..errors import BodyTimeout, Forbidden, QuotaExceeded, TooLarge, Unauthorized

#: Kind of error -> HTTP status, OpenAI's type, and its code.
_KINDS: dict[type[TriremeError], tuple[int, str, str | None]] = {
    Unauthorized: (401, "invalid_request_error", "invalid_api_key"),
    Forbidden: (403, "permission_error", "model_not_allowed"),
    InvalidArgument: (400, "invalid_request_error", None),
    NotFound: (404, "invalid_request_error", "not_found"),
    ResourceExhausted: (429, "rate_limit_error", "rate_limit_exceeded"),
    DeadlineExceeded: (504, "timeout_error", "deadline_exceeded"),
    Unavailable: (503, "server_error", "unavailable"),
    Cancelled: (500, "server_error", "cancelled"),
    InternalError: (500, "server_error", "internal"),
    TooLarge: (413, "invalid_request_error", "request_too_large"),
    BodyTimeout: (408, "timeout_error", "request_timeout"),
}

#: In the log only: the client left before it was answered.
CLIENT_LEFT = 499

_INTERNAL = (500, "server_error", "internal")


class BadRequest(InvalidArgument):
    """A request that is at fault. param: the field; code: OpenAI's, where it has one for that."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class ModelNotFound(NotFound):
    """A model that is none of the gateway's."""


def status_of(error: TriremeError) -> int:
    """The HTTP status."""
    return _kind(error)[0]


def _kind(error: TriremeError) -> tuple[int, str, str | None]:
    return next((kind for cls, kind in _KINDS.items() if isinstance(error, cls)), _INTERNAL)


def object_of(error: TriremeError) -> dict[str, Any]:
    """The object that is sent."""
    _, kind, code = _kind(error)
    param = getattr(error, "param", None)
    if isinstance(error, ModelNotFound):
        param, code = "model", "model_not_found"
    elif isinstance(error, BadRequest | Forbidden):
        code = error.code
    elif isinstance(error, QuotaExceeded):
        code = error.code
        kind = "insufficient_quota" if code == "insufficient_quota" else kind
    return error_object(error.message, kind, param, code)


def type_of(error: TriremeError) -> str:
    """Its code, or its type where it has none."""
    found = object_of(error)["error"]
    return str(found["code"] or found["type"])


def error_object(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def body_of(error: TriremeError) -> bytes:
    """The same as JSON; what no UTF-8 can hold is escaped."""
    return json.dumps(object_of(error)).encode("ascii")


def headers_of(error: TriremeError) -> list[tuple[bytes, bytes]]:
    """Retry-After, in whole s and in ms, where it is known when to come again; and what quotas say."""
    found: list[tuple[bytes, bytes]] = []
    if isinstance(error, Unauthorized):
        found.append((b"www-authenticate", b'Bearer realm="trireme"'))
    if isinstance(error, QuotaExceeded):
        found += error.limits
        if not error.may_retry:
            found.append((b"x-should-retry", b"false"))
    if error.retry_after_ms is None:
        return found
    seconds = max(1, math.ceil(error.retry_after_ms / 1000))
    # The second is what OpenAI's SDK looks at first.
    return [*found, (b"retry-after", b"%d" % seconds), (b"retry-after-ms", b"%d" % error.retry_after_ms)]
