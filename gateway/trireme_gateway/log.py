"""What the gateway writes to standard error. No prompt and no answer is in it."""

import logging
import sys

#: One line for each request.
access = logging.getLogger("trireme.gateway.access")

#: Everything else.
log = logging.getLogger("trireme.gateway")


def set_up(access_log: bool) -> None:
    """Write to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger("trireme")
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    root.propagate = False
    set_level(access_log)


def set_level(access_log: bool) -> None:
    """Whether there is a line for each request."""
    access.setLevel(logging.INFO if access_log else logging.WARNING)
