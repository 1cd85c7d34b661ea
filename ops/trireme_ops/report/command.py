"""`trireme report`: the subcommand."""

import argparse
import importlib.util
from datetime import datetime
from pathlib import Path
from typing import Any

from ..arguments import seconds
from ..errors import OperatorError
from ..layout import Layout


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "report",
        help="compare versions of an engine model on one HTML page",
        description="Writes one HTML page, without references to anything outside it, that compares versions of an "
        "LLM's engine model: size, accuracy as published, and speed as measured in this run.",
    )
    parser.add_argument(
        "versions",
        nargs="+",
        metavar="VERSION",
        help="a version's folder, MODEL/N, or a number N of tensorrt_llm; ratios are to the first one",
    )
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="default: report.html")
    parser.add_argument(
        "--seconds", type=seconds, default=3.0, metavar="S", help="of each measurement (default 3; a version has four)"
    )
    parser.add_argument("--no-speed", action="store_true", help="measure nothing")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the page; 0 if it is there."""
    if importlib.util.find_spec("matplotlib") is None:
        raise OperatorError(
            "trireme report needs matplotlib; type: make setup-build, then .venv-build/bin/trireme report ..."
        )
    from .versions import read_versions

    if not arguments.out.absolute().parent.is_dir():
        raise OperatorError(f"--out {arguments.out}: there is no folder {arguments.out.absolute().parent}")
    versions = read_versions(arguments.versions, Layout.find())
    # What charts and measurements need takes a while to import; a version that is mistyped is refused before.
    from .page import render
    from .speed import Machine, measure

    machine = Machine.here(datetime.now().astimezone())
    speeds = [None] * len(versions) if arguments.no_speed else measure(versions, arguments.seconds)
    page = render(versions, speeds, machine, 0.0 if arguments.no_speed else arguments.seconds)
    arguments.out.write_text(page, encoding="utf-8")
    print(f"Wrote {arguments.out} ({len(page.encode()) / 1e3:.0f} kB): {', '.join(v.name for v in versions)}")
    return 0
