"""`trireme bench`: the subcommand."""

import argparse
import signal
import sys
from typing import Any

from ..arguments import count, seconds
from ..layout import Layout

_SECONDS = {
    "path": 4.0,
    "engine": 12.0,
    "overload": 10.0,
    "build": 1.0,
    "releases": 1.0,
    "load": 8.0,
    "cross-check": 6.0,
    "gateway": 5.0,
    "fleet": 12.0,
}


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Register the subcommand."""
    parser = commands.add_parser("bench", help="measure the serving path on this machine")
    parser.add_argument("what", choices=sorted(_SECONDS), help="what to measure")
    parser.add_argument("--seconds", type=seconds, help="of each measurement")
    parser.add_argument("--swaps", type=count, default=100, help="of releases (default 100)")
    parser.add_argument("--clients", type=clients, default=16, help="of each kind, for releases (default 16)")
    parser.set_defaults(run=run)


def clients(text: str) -> int:
    """How many, 0 for none. Raises argparse.ArgumentTypeError."""
    return 0 if text == "0" else count(text)


def run(arguments: argparse.Namespace) -> int:
    """Measure; 0 unless something fails."""
    from . import build, cross_check, engine, fleet, gateway, generator, overload, path, releases

    # What a run has started ends with it, as with Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    runs = {
        "path": path.run,
        "engine": engine.run,
        "overload": overload.run,
        "build": build.run,
        "load": generator.run,
        "cross-check": cross_check.run,
        "gateway": gateway.run,
        "fleet": fleet.run,
    }
    if arguments.what == "releases":
        return releases.run(Layout.find(), arguments.swaps, arguments.clients)
    return runs[arguments.what](Layout.find(), arguments.seconds or _SECONDS[arguments.what])
