"""Which target a name stands for."""

from trireme_client import Unavailable

from ..errors import SettingError, UnreachableError
from .base import Target
from .grpc_target import GrpcTarget
from .http_target import HttpTarget
from .openai_target import OpenAITarget

#: Name -> the address of a server that was started with the defaults.
NAMES = {"grpc": "127.0.0.1:8001", "http": "127.0.0.1:8000", "openai": "127.0.0.1:9000"}


def connect(name: str, address: str, timeout_s: float, connect_timeout_s: float = 10.0) -> Target:
    """A connection. Raises SettingError for an unknown name, and UnreachableError if nobody answers gRPC in time."""
    if name == "grpc":
        target = GrpcTarget(address, timeout_s)
        try:
            target.connect(connect_timeout_s)
        except Unavailable as error:
            target.close()
            raise UnreachableError(str(error)) from None
        return target
    if name == "http":
        return HttpTarget(address, timeout_s)
    if name == "openai":
        return OpenAITarget(address, timeout_s)
    raise SettingError(f"target is {name!r}; allowed are {', '.join(NAMES)}")
