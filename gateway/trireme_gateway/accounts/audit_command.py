"""`trireme audit`: what administrators did, and whether the record of that is whole."""

import argparse
import json
import sys
from typing import Any

from . import arguments as shared


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Register the subcommand."""
    parser = commands.add_parser("audit", help="what administrators did, and whether that record is whole")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    verify = actions.add_parser("verify", help="check the chain of entries; exit status 1 where it is broken")
    verify.add_argument("--head", metavar="DIGEST", help="that was the last entry's once, as noted elsewhere")
    verify.set_defaults(do=_verify)
    listing = actions.add_parser("list", help="the entries")
    listing.add_argument("--json", action="store_true", help="for programs")
    listing.set_defaults(do=_list)
    for action in (verify, listing):
        shared.add_database(action)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it; the exit status."""
    return shared.run_safely("audit", arguments.do, arguments)


def _verify(arguments: argparse.Namespace) -> int:
    from . import audit

    with shared.opened(arguments).read() as connection:
        try:
            count, head = audit.verify(connection, arguments.head)
        except audit.Broken as broken:
            print(f"BROKEN: {broken}", file=sys.stderr)
            return 1
    print(f"{count} entries, none missing and none changed. The last one's digest:\n{head}")
    return 0


def _list(arguments: argparse.Namespace) -> None:
    from .audit import entries

    with shared.opened(arguments).read() as connection:
        found = entries(connection)
    if arguments.json:
        for entry in found:
            print(json.dumps({**vars(entry), "detail": json.loads(entry.detail)}))
        return
    rows = [["number", "time", "who", "what", "detail"]]
    for entry in found:
        rows.append([str(entry.number), shared.shown_time(entry.time_ms), entry.actor, entry.action, entry.detail])
    print(shared.table(rows))
