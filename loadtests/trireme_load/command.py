"""`trireme load`: a load test with the figures of LLMs, a sweep of them, and two of them compared."""

import argparse
import importlib.util
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from .errors import LoadError, SettingError
from .quantities import number
from .results import check_folder, default_folder

_NEEDED = ("locust", "matplotlib", "msgpack")

#: Users, processes, and users that come in a second.
_MOST = 100_000


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Register the subcommand."""
    from .settings import add_options

    parser = commands.add_parser(
        "load",
        help="put load on a server, and measure what its users notice",
        description="Runs Locust with one of the scenarios, and reports TTFT, ITL, TPOT, goodput and the rest. "
        "`load sweep` does so at several loads and finds the knee; `load compare A B` compares two runs.",
    )
    parser.add_argument("act", nargs="?", default="run", choices=("run", "sweep", "compare"), help="default: run")
    parser.add_argument("runs", nargs="*", type=Path, metavar="FOLDER", help="for compare: the --out of two runs")
    parser.add_argument("--host", help="address of the server (default: the one that `trireme serve` has)")
    parser.add_argument("--serve", action="store_true", help="start a server for the run, and stop it afterwards")
    parser.add_argument("--scenario", default="streaming-chat", help="name of a scenario, or a locustfile of your own")
    parser.add_argument("--users", default="8", help="of a closed loop (default: 8)")
    parser.add_argument("--spawn-rate", default="", metavar="PER_S", help="users that come in a second (default: all)")
    parser.add_argument("--processes", default="1", help="of the load generator (default: 1)")
    parser.add_argument("--concurrency", metavar="LIST", help="for sweep: users, such as 1,2,4,8,16,32,64")
    parser.add_argument("--rates", metavar="LIST", help="for sweep: requests/s of an open loop, such as 1,2,4,8")
    add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure, sweep or compare; the exit status."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"trireme load: {missing[0]} is not installed; type: make setup-load", file=sys.stderr)
        return 1
    try:
        for name in ("users", "processes"):
            setattr(arguments, name, int(number(getattr(arguments, name), name, 1, _MOST, whole=True)))
        if arguments.spawn_rate:
            arguments.spawn_rate = number(arguments.spawn_rate, "spawn-rate", 0.01, _MOST)
        return {"run": _run, "sweep": _sweep, "compare": _compare}[arguments.act](arguments)
    except LoadError as error:
        print(f"trireme load: {error}", file=sys.stderr)
        return 1


def _options(arguments: argparse.Namespace, host: str | None, out: Path) -> dict[str, str | None]:
    from .settings import OPTIONS

    values: dict[str, str | None] = {name: getattr(arguments, name.replace("-", "_")) for name in OPTIONS}
    if not values["duration"] and not values["trace"] and not str(values["shape"]).startswith("soak"):
        values["duration"] = "60s"
    return {**values, "host": host, "out": str(out)}


def _checked(arguments: argparse.Namespace, host: str | None, out: Path) -> dict[str, str | None]:
    """The options, looked at before anything is started. Raises SettingError."""
    from .settings import Settings
    from .thresholds import read_thresholds

    if arguments.runs:
        raise SettingError(f"{arguments.runs[0]} is a folder; only compare takes folders")
    check_folder(out)
    options = _options(arguments, host, out)
    namespace = argparse.Namespace(**{name.replace("-", "_"): value for name, value in options.items()})
    namespace.num_users, namespace.spawn_rate, namespace.run_time = arguments.users, 1.0, None
    Settings.of(namespace)
    if options["thresholds"]:
        read_thresholds(Path(options["thresholds"]))
    return {**options, "seed": namespace.seed}


def _out(arguments: argparse.Namespace) -> Path:
    return Path(arguments.out) if arguments.out else default_folder()


def _measure(arguments: argparse.Namespace, options: dict[str, str | None], users: int) -> int:
    from .launch import locust_command, run_locust
    from .scenarios import file_of

    is_open = not str(options["arrival"]).startswith("closed")
    # In an open loop, Locust's users only stand for its processes.
    users = arguments.processes if is_open else users
    processes = min(arguments.processes, users)
    spawn_rate = arguments.spawn_rate or float(users)
    try:
        return run_locust(locust_command(file_of(arguments.scenario), options, users, spawn_rate, processes))
    except LoadError as error:
        raise LoadError(f"{error}; {options['out']}/requests.csv holds what came until then") from None


def _run(arguments: argparse.Namespace) -> int:
    from .launch import served
    from .scenarios import file_of

    out = _out(arguments)
    file_of(arguments.scenario)
    options = _checked(arguments, arguments.host, out)
    if arguments.serve:
        print("Starting a server ...", file=sys.stderr, flush=True)
    with served(arguments.target) if arguments.serve else nullcontext(arguments.host) as host:
        status = _measure(arguments, {**options, "host": host}, arguments.users)
    if (out / "report.html").exists():
        print(f"\nReport: {os.path.relpath(out / 'report.html')}")
    return status


def _sweep(arguments: argparse.Namespace) -> int:
    from .launch import served
    from .scenarios import file_of
    from .sweeping import Sweep, levels_of

    levels = levels_of(arguments)
    out = _out(arguments)
    file_of(arguments.scenario)
    first = _checked(arguments, arguments.host, out)
    sweep = Sweep(out, levels, by_rate=bool(arguments.rates))
    print(f"{len(levels)} loads: {', '.join(f'{level:g}' for level in levels)} {sweep.unit}", file=sys.stderr)
    with served(arguments.target) if arguments.serve else nullcontext(arguments.host) as host:
        for level in levels:
            folder = sweep.folder(level)
            print(f"\n== {level:g} {sweep.unit}", file=sys.stderr, flush=True)
            options = {**first, "host": host, "out": str(folder)}
            if sweep.by_rate:
                options["rate"] = f"{level:g}"
            status = _measure(arguments, options, arguments.users if sweep.by_rate else int(level))
            if not sweep.take(level, status):
                break
    return sweep.finish()


def _compare(arguments: argparse.Namespace) -> int:
    from .comparing import compare_folders

    if len(arguments.runs) != 2:
        raise SettingError(f"compare takes the folders of two runs; {len(arguments.runs)} were given")
    first, second = arguments.runs
    print(compare_folders(first, second, Path(arguments.out) if arguments.out else None))
    return 0
