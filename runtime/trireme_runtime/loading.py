"""What every model does around its loading: keep out of the way of others, and tell where it is if it takes long."""

import faulthandler
import functools
from collections.abc import Callable
from typing import Any

from . import background

#: After how many seconds of loading the stacks of a model's process go to its standard error, the server's log. Once: a
#: large engine may take minutes, and one that waits for ever does so in one place.
TOLD_AFTER_S = 45

#: A number, for whoever imports this may have put something else in the place of `sys.stderr`.
_STANDARD_ERROR = 2


def begin() -> None:
    """Loading begins with this import; it ends with `initialize`, see `loads`."""
    faulthandler.dump_traceback_later(TOLD_AFTER_S, file=_STANDARD_ERROR)
    background.begin()


def end() -> None:
    """It is loaded, or will never be."""
    background.end()
    faulthandler.cancel_dump_traceback_later()


def loads(initialize: Callable[..., None]) -> Callable[..., None]:
    """For `initialize` of a model: what `begin` did is over before it returns or raises."""

    @functools.wraps(initialize)
    def wrapper(*arguments: Any) -> None:
        try:
            initialize(*arguments)
        finally:
            end()

    return wrapper
