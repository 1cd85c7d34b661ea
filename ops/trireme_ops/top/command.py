"""`trireme top`: what servers do, live in a terminal, or once for scripts."""

import argparse
import io
import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OperatorError
from .frame import Frame, State
from .scrape import read_key
from .targets import (
    DEFAULT_GATEWAY,
    DEFAULT_HEALTH,
    DEFAULT_METRICS,
    Targets,
    control_key,
    fleet_state,
    one_server,
    read_fleet,
)

if TYPE_CHECKING:
    from .watching import Watching

#: In s.
_SHORTEST, _LONGEST = 0.2, 3600.0


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Register the subcommand."""
    parser = commands.add_parser("top", help="what servers do, live in the terminal; --once for scripts")
    parser.add_argument(
        "--fleet",
        nargs="?",
        const="",
        metavar="STATE",
        help="all servers of the fleet that `trireme fleet up` started, or of another state.json "
        "(default: this checkout's fleet if it has one, else one server)",
    )
    parser.add_argument("--metrics", metavar="HOST:PORT", help=f"Triton's metrics (default {DEFAULT_METRICS})")
    parser.add_argument(
        "--health", metavar="HOST:PORT", help=f"its supervisor (default {DEFAULT_HEALTH}; with --metrics: none)"
    )
    parser.add_argument(
        "--gateway", metavar="HOST:PORT", help=f"the gateway (default: {DEFAULT_GATEWAY} if it answers, or the fleet's)"
    )
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="the key for a gateway whose metrics want one")
    parser.add_argument(
        "--control-key", type=Path, metavar="FILE", help="to ask what is live (default: .trireme/control.key)"
    )
    parser.add_argument("--interval", type=_seconds, default=1.0, metavar="S", help="how often to ask (default 1)")
    parser.add_argument(
        "--window", type=_seconds, default=10.0, metavar="S", help="rates and quantiles are of so long (default 10)"
    )
    parser.add_argument("--for", dest="for_s", type=_seconds, metavar="S", help="watch for so long, then end")
    parser.add_argument("--slo", type=_slo, metavar="ttft=500ms", help="show goodput: streams that began in time")
    parser.add_argument("--once", action="store_true", help="ask twice, or for the time of --for, and print one frame")
    parser.add_argument("--json", action="store_true", help="with --once: one JSON object")
    parser.add_argument("--no-history", action="store_true", help="no sparklines")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="also write the last frame as a picture")
    parser.set_defaults(run=run)


def _seconds(text: str) -> float:
    """A time. Raises ArgumentTypeError naming value and limits."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not _SHORTEST <= value <= _LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are {_SHORTEST:g} to {_LONGEST:g} seconds")
    return value


def _slo(text: str) -> float:
    """The objective for the time to first token, in s. Raises ArgumentTypeError naming value and form."""
    name, _, limit = text.partition("=")
    if name.strip() != "ttft":
        raise argparse.ArgumentTypeError(
            f"{text!r}: ttft=500ms is the form; servers count no other objective request by request"
        )
    limit = limit.strip()
    scale = 0.001 if limit.endswith("ms") else 1.0
    try:
        value = float(limit.removesuffix("s").removesuffix("m")) * scale if limit.endswith("s") else math.nan
    except ValueError:
        value = math.nan
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r}: a time such as 500ms or 2s is needed, up to 3600s")
    return value


def targets_of(arguments: argparse.Namespace) -> Targets:
    """What the options name. Raises OperatorError."""
    key = read_key("--control-key", arguments.control_key) if arguments.control_key else control_key()
    if arguments.fleet is not None and (arguments.metrics or arguments.health):
        raise OperatorError("--fleet names all servers; leave out --metrics and --health, which name one")
    if arguments.health and not arguments.metrics:
        raise OperatorError(f"--health is {arguments.health!r} without --metrics; name both")
    if arguments.metrics:
        return one_server(arguments.metrics, arguments.health or "", arguments.gateway or "", False, key)
    path = _fleet_path(arguments.fleet)
    if path is None:
        gateway = arguments.gateway or DEFAULT_GATEWAY
        return one_server(DEFAULT_METRICS, DEFAULT_HEALTH, gateway, not arguments.gateway, key)
    return read_fleet(path, key, arguments.gateway or "")


def _fleet_path(given: str | None) -> Path | None:
    """The state file of a fleet; None where one server is meant."""
    if given:
        return Path(given).expanduser()
    try:
        path = fleet_state()
    except OperatorError:
        if given is None:
            return None
        raise
    return path if given is not None or path.exists() else None


def run(arguments: argparse.Namespace) -> int:
    """Draw until told to end: 0. Once: 0 if a server answered, else 1."""
    if arguments.json and not arguments.once:
        raise OperatorError("--json needs --once: it prints one object")
    if not arguments.once and not sys.stdout.isatty():
        raise OperatorError("standard output is no terminal; type: trireme top --once")
    targets = targets_of(arguments)
    gateway_key = read_key("--key-file", arguments.key_file) if arguments.key_file else ""
    # rich takes a moment to import: not for what is refused at once.
    from rich.console import Console

    from .view import View
    from .watching import Watching

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    console = Console(highlight=False)
    watching = Watching(targets, arguments.interval, arguments.window, gateway_key, arguments.slo)
    with watching:
        if arguments.once:
            _watch(watching, arguments.for_s)
            frame = watching.frame()
            view = View(frame, watching.history if arguments.for_s and not arguments.no_history else None)
            if arguments.json:
                print(json.dumps(frame.to_json(), ensure_ascii=False))
            else:
                console.print(view)
        else:
            from .screen import show

            view = show(watching, console, arguments.for_s, not arguments.no_history)
            frame = view.frame
    if arguments.svg:
        from .picture import write_svg

        write_svg(view, arguments.svg, console.width)
    return _status(frame) if arguments.once else 0


def _watch(watching: "Watching", for_s: float | None) -> None:
    """Until there are figures of two questions, or for so long."""
    if for_s is None:
        watching.wait_for_first_rates()
        return
    ends_at = time.monotonic() + for_s
    while (left_s := ends_at - time.monotonic()) > 0:
        time.sleep(min(left_s, watching.interval_s))
        watching.tick()


def _status(frame: Frame) -> int:
    """Of a frame for scripts."""
    if any(server.state not in (State.DOWN, State.STARTING) for server in frame.servers):
        return 0
    where = ", ".join(server.metrics for server in frame.servers)
    print(f"trireme: no server answers at {where}. Type: make serve", file=sys.stderr)
    return 1
