"""How a run goes, on one line of a terminal; a line every ten seconds elsewhere."""

import sys

from .live import Moment
from .settings import Settings

_PLAIN_EVERY_S = 10.0


class Progress:
    """Shows moments of a run."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tty = sys.stderr.isatty()
        self._next_s = 0.0 if self._tty else _PLAIN_EVERY_S

    def show(self, moment: Moment) -> None:
        """Show it if it is time."""
        if moment.at_s < self._next_s:
            return
        self._next_s = moment.at_s + (0.4 if self._tty else _PLAIN_EVERY_S)
        whole = f" of {self._settings.whole_s:.0f}" if self._settings.whole_s else ""
        wanted = "requests/s" if self._settings.arrivals.is_open else "users"
        ttft = "no token yet" if moment.ttft_p50 is None else f"TTFT p50 {moment.ttft_p50:.0f} ms"
        text = (
            f"{moment.at_s:4.0f}{whole} s  {moment.level:g} {wanted}  {moment.in_flight} in flight  "
            f"{moment.requests_per_s:.1f} requests/s  {moment.tokens_per_s:.0f} tokens/s  {ttft}  "
            f"{moment.errors} errors"
        )
        if moment.at_s < self._settings.warm_up_s:
            text += "  (warm-up)"
        print(f"\r{text[:130]:<130}" if self._tty else text, end="" if self._tty else "\n", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line."""
        if self._tty:
            print(file=sys.stderr, flush=True)
