"""`trireme doctor`: what this machine has, and for each problem what to type."""

import argparse
import json
from dataclasses import asdict
from typing import Any

from .arguments import add_port_arguments, ports_of
from .checks import Finding, Status, all_checks
from .layout import Layout
from .releases.view import View

_MARKS = {Status.OK: "ok  ", Status.NOTE: "note", Status.FAIL: "FAIL"}


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Register the subcommand."""
    parser = commands.add_parser("doctor", help="check what this machine has, and say what to type")
    add_port_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run=run)


def render(findings: list[Finding]) -> str:
    """The findings as lines for a person."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{_MARKS[finding.status]}  {finding.check:<{width}}  {finding.detail}")
        if finding.fix:
            lines.append(f"{'':4}  {'':<{width}}  -> {finding.fix}")
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; 1 if one of them keeps the server from starting."""
    wanted = ports_of(arguments)
    layout = View.of_server(Layout.find(), str(wanted.http)).layout_of_live()
    findings = all_checks(layout, wanted)
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], ensure_ascii=False, indent=2))
    else:
        print(render(findings))
    return int(any(finding.status is Status.FAIL for finding in findings))
