"""A client for Trireme's `ensemble`: sync and async, unary and streaming, over gRPC."""

from .async_client import AsyncClient, AsyncStream
from .errors import (
    Cancelled,
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    TriremeError,
    Unavailable,
)
from .sync_client import Client, Stream
from .types import Completion, Delta, Message

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "Cancelled",
    "Client",
    "Completion",
    "DeadlineExceeded",
    "Delta",
    "InternalError",
    "InvalidArgument",
    "Message",
    "NotFound",
    "ResourceExhausted",
    "Stream",
    "TriremeError",
    "Unavailable",
]
