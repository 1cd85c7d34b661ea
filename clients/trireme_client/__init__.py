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
from .types import Answer, Completion, Delta, Generation, Guide, Message, Metrics

__all__ = [
    "Answer",
    "AsyncClient",
    "AsyncStream",
    "Cancelled",
    "Client",
    "Completion",
    "DeadlineExceeded",
    "Delta",
    "Generation",
    "Guide",
    "InternalError",
    "InvalidArgument",
    "Message",
    "Metrics",
    "NotFound",
    "ResourceExhausted",
    "Stream",
    "TriremeError",
    "Unavailable",
]
