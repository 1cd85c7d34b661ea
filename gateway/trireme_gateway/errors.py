"""What can be wrong with a gateway before it runs, and what it cannot do for a request.

GatewayError
├── SettingError      a file of settings or an option: names the key, the value and what is allowed
├── ListenError       it cannot listen at its address
├── DatabaseError     its database cannot be read or written
└── NoSuchKey         an administrator names a key that is not there

The errors of requests are those of `trireme_client`, and those below.
"""

from trireme_client import ResourceExhausted, TriremeError, Unavailable


class GatewayError(Exception):
    """The message is for the person who starts the gateway."""


class SettingError(GatewayError):
    """Names the key, its value and what is allowed."""


class ListenError(GatewayError):
    """Names the address and why nothing can listen there."""


class DatabaseError(GatewayError):
    """Names the database and what went wrong."""


class NoSuchKey(GatewayError):
    """Names the key."""


class Unauthorized(TriremeError):
    """Who asks is not known. Holds nothing of a key but its id."""


class Forbidden(TriremeError):
    """Who asks is known, and may not. code: what is not allowed."""

    def __init__(self, message: str, code: str = "model_not_allowed") -> None:
        super().__init__(message)
        self.code = code


class QuotaExceeded(ResourceExhausted):
    """A key or a tenant has used up what it may have.

    code: OpenAI's. limits: what the headers of the answer say of its limits. may_retry: whether it helps to come again.
    """

    def __init__(
        self,
        message: str,
        retry_after_ms: int | None,
        code: str = "rate_limit_exceeded",
        limits: tuple[tuple[bytes, bytes], ...] = (),
        may_retry: bool = True,
    ) -> None:
        super().__init__(message, retry_after_ms)
        self.code = code
        self.limits = limits
        self.may_retry = may_retry


class ReleaseGone(TriremeError):
    """The release that a request was to be answered by is served no more; another one may be."""


class ServerLost(Unavailable):
    """A server that was asked does not answer any more, or never did."""


class TooLarge(TriremeError):
    """A body that is longer than allowed."""


class BodyTimeout(TriremeError):
    """A body that did not come in time."""
