"""Which target a name stands for."""

from trireme_client import Unavailable

from ..errors import SettingError, UnreachableError
from .base import Target

#: Name -> the address of a server that was started with the defaults.
NAMES = {"grpc": "127.0.0.1:8001", "http": "127.0.0.1:8000", "openai": "127.0.0.1:9000"}


def connect(name: str, address: str, timeout_s: float, connect_timeout_s: float = 10.0) -> Target:
    """A connection. Raises SettingError for an unknown name, and UnreachableError if nobody answers gRPC in time."""
    # The command line reads NAMES in installations that have no libraries for load tests.
    if name == "grpc":
        from .grpc_target import GrpcTarget

        target = GrpcTarget(address, timeout_s)
        try:
            target.connect(connect_timeout_s)
        except Unavailable as error:
            target.close()
            raise UnreachableError(str(error)) from None
        return target
    if name == "http":
        from .http_target import HttpTarget

        return HttpTarget(address, timeout_s)
    if name == "openai":
        from .openai_target import OpenAITarget

        return OpenAITarget(address, timeout_s)
    raise SettingError(f"target is {name!r}; allowed are {', '.join(NAMES)}")
