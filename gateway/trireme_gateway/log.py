"""What the gateway writes to standard error: JSON, one object a line. No prompt, no answer and no key is in it."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from .accounts.token import masked

#: One line for each request.
access: Any = structlog.get_logger("access")

#: Everything else.
log: Any = structlog.get_logger("gateway")

_writes_access = True


def _mask(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Without the secrets of keys, wherever they come from."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = masked(value)
        elif not isinstance(value, int | float | None):
            event[name] = masked(str(value))
    return event


_COMMON: list[Any] = [
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.format_exc_info,
    _mask,
]


def set_up(access_log: bool) -> None:
    """Write to standard error; what libraries say, too."""
    structlog.configure(
        processors=[*_COMMON, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_COMMON,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    set_level(access_log)


def set_level(access_log: bool) -> None:
    """Whether there is a line for each request."""
    global _writes_access
    _writes_access = access_log


def writes_access() -> bool:
    """Whether there is a line for each request."""
    return _writes_access
