"""`trireme ledger`: what was asked and what it cost."""

import argparse
import importlib.util
import sys
import time
from pathlib import Path
from typing import Any

from ..accounts import arguments as shared
from ..errors import SettingError

_BY = ("tenant", "key", "model", "version")


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Register the subcommand."""
    parser = commands.add_parser("ledger", help="what the gateway was asked, and what it cost")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    report = actions.add_parser("report", help="sums of a month")
    report.add_argument("--by", choices=_BY, default="tenant", help="default: tenant")
    report.add_argument("--month", metavar="YYYY-MM", help="of UTC (default: this one)")
    report.add_argument("--csv", type=Path, metavar="FILE", help="write it as CSV; - for standard output")
    report.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots (needs make setup-load)")
    report.set_defaults(do=_report)

    forget = actions.add_parser(
        "forget",
        help="remove a person's rows and transcripts",
        description="What the person's requests have cost stays in the sums that budgets are checked against.",
    )
    forget.add_argument("--user", required=True, help="as it was sent in the field `user`")
    forget.set_defaults(do=_forget)

    transcripts = actions.add_parser("transcripts", help="kept prompts and answers, redacted, as lines of JSON")
    transcripts.add_argument("--tenant", type=shared.name, help="of this one only")
    transcripts.set_defaults(do=_transcripts)

    for action in (report, forget, transcripts):
        shared.add_database(action)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it; the exit status."""
    return shared.run_safely("ledger", arguments.do, arguments)


def _report(arguments: argparse.Namespace) -> None:
    from ..settings import read_settings
    from .report import cells, make_report, month, remark, write_csv

    wanted = month(arguments.month or time.strftime("%Y-%m", time.gmtime()))
    if arguments.html is not None and importlib.util.find_spec("matplotlib") is None:
        raise SettingError("--html needs matplotlib, which is not installed; type: make setup-load")
    currency = read_settings(arguments.config, {}).currency
    with shared.opened(arguments).read() as connection:
        report = make_report(connection, arguments.by, wanted, currency)
    if arguments.csv is not None and str(arguments.csv) == "-":
        write_csv(report, sys.stdout)
    elif arguments.csv is not None:
        with arguments.csv.open("w", encoding="utf-8", newline="") as file:
            write_csv(report, file)
        print(f"Wrote {arguments.csv}.")
    if arguments.html is not None:
        from .page import page

        arguments.html.write_text(page(report), encoding="utf-8")
        print(f"Wrote {arguments.html}.")
    if arguments.csv is None and arguments.html is None:
        if not report.lines:
            print(f"There are no requests in {wanted.name}.")
        else:
            print(shared.table(cells(report), numbers_from=1))
    if report.lost:
        print(remark(report), file=sys.stderr)


def _forget(arguments: argparse.Namespace) -> None:
    from .forget import forget

    if not arguments.user:
        raise SettingError("--user is empty; it names whom to forget")
    rows, texts = forget(shared.opened(arguments), arguments.user)
    print(f"Removed {rows} rows of the ledger and {texts} transcripts.")


def _transcripts(arguments: argparse.Namespace) -> None:
    import json

    from sqlalchemy import select

    from ..accounts import audit
    from ..accounts.database import transcripts

    database = shared.opened(arguments)
    with database.write() as connection:
        # Whoever reads what people wrote is recorded, too.
        audit.note(connection, "transcripts.read", {"tenant": arguments.tenant})
    wanted = select(transcripts).order_by(transcripts.c.id)
    if arguments.tenant:
        wanted = wanted.where(transcripts.c.tenant == arguments.tenant)
    with database.read() as connection:
        for row in connection.execution_options(yield_per=1000).execute(wanted).mappings():
            print(json.dumps(dict(row), ensure_ascii=False))
