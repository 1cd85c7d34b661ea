"""The client's errors.

TriremeError
+-- InvalidArgument      the request is at fault: the message names the tensor, the value and the limit
+-- NotFound             no such model, version or request
+-- ResourceExhausted    the server is full; `retry_after_ms` says when to come again
+-- DeadlineExceeded     the deadline passed
+-- Cancelled            the generation was ended early
+-- Unavailable          no server, or one that is starting or stopping
+-- InternalError        the server is at fault
"""

import grpc

from trireme_runtime.contract import Code, parse_refusal


class TriremeError(Exception):
    """A request that was not answered. `retry_after_ms` is None where the server names no time."""

    def __init__(self, message: str, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_ms = retry_after_ms


class InvalidArgument(TriremeError):
    """The request is at fault."""


class NotFound(TriremeError):
    """No such model, version or request."""


class ResourceExhausted(TriremeError):
    """The server is full."""


class DeadlineExceeded(TriremeError):
    """The deadline passed."""


class Cancelled(TriremeError):
    """The generation was ended early."""


class Unavailable(TriremeError):
    """No server answers, or it is starting or stopping."""


class InternalError(TriremeError):
    """The server is at fault."""


_BY_CODE: dict[Code, type[TriremeError]] = {
    Code.INVALID_ARGUMENT: InvalidArgument,
    Code.NOT_FOUND: NotFound,
    Code.RESOURCE_EXHAUSTED: ResourceExhausted,
    Code.DEADLINE_EXCEEDED: DeadlineExceeded,
    Code.CANCELLED: Cancelled,
    Code.UNAVAILABLE: Unavailable,
    Code.INTERNAL: InternalError,
}

_BY_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
}

#: Triton's words for a model that is known, but not loaded: the server starts, stops or swaps it.
_NOT_LOADED = "no available versions"

#: What Triton's own refusals say; they carry no code on a stream.
_INVALID_WORDINGS = ("unexpected", "expects", "missing required", "batch-size", "batch size", "unable to parse")


def code_of(error: TriremeError) -> Code:
    """The contract's code that an error stands for."""
    return next((code for code, kind in _BY_CODE.items() if isinstance(error, kind)), Code.INTERNAL)


def error_from_text(text: str) -> TriremeError:
    """The error that a response's error text stands for."""
    refusal = parse_refusal(text)
    if refusal is not None:
        return _BY_CODE[refusal.code](refusal.message, refusal.retry_after_ms)
    if _NOT_LOADED in text:
        return Unavailable(f"the model is not loaded; the server is starting or stopping ({text})")
    if "unknown model" in text or "is not found" in text:
        return NotFound(text)
    if any(wording in text for wording in _INVALID_WORDINGS):
        return InvalidArgument(text)
    if "is not ready" in text or "not healthy" in text:
        return Unavailable(text)
    return InternalError(text)


def error_from_rpc(error: grpc.RpcError) -> TriremeError:
    """The error that a failed call stands for; the server's own code goes before the call's status."""
    return error_from_status(error.code(), error.details() or "")


def error_from_status(status: grpc.StatusCode, text: str) -> TriremeError:
    """The error that a call's status and its details stand for."""
    if parse_refusal(text) is not None or _NOT_LOADED in text:
        return error_from_text(text)
    return _BY_STATUS.get(status, InternalError)(text or str(status))
