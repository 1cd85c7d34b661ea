"""What can be wrong with a gateway before it runs, and what it cannot do for a request.

GatewayError
├── SettingError      a file of settings or an option: names the key, the value and what is allowed
└── ListenError       it cannot listen at its address

The errors of requests are those of `trireme_client`.
"""

from trireme_client import TriremeError, Unavailable


class GatewayError(Exception):
    """The message is for the person who starts the gateway."""


class SettingError(GatewayError):
    """Names the key, its value and what is allowed."""


class ListenError(GatewayError):
    """Names the address and why nothing can listen there."""


class ReleaseGone(TriremeError):
    """The release that a request was to be answered by is served no more; another one may be."""


class ServerLost(Unavailable):
    """A server that was asked does not answer any more, or never did."""


class TooLarge(TriremeError):
    """A body that is longer than allowed."""


class BodyTimeout(TriremeError):
    """A body that did not come in time."""
