"""What the commands for administrators have in common: which database they work on."""

import argparse
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import SettingError
from .quota import NANO

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def add_database(parser: argparse.ArgumentParser) -> None:
    """--config and --database."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="the gateway's settings, which name the database")
    parser.add_argument("--database", metavar="URL", help="sqlite:////path/file or postgresql://host/name, instead")


def database_url(arguments: argparse.Namespace) -> str:
    """Which one: of the option, the settings, the environment, or the default. Raises SettingError."""
    from ..settings import read_settings
    from .database import default_url

    if arguments.database:
        return str(arguments.database)
    return (read_settings(arguments.config, {}).database if arguments.config else "") or default_url()


def opened(arguments: argparse.Namespace) -> Any:
    """That database. Raises SettingError or DatabaseError."""
    from .database import Database

    return Database(database_url(arguments)).open()


def duration_s(text: str) -> float:
    """Of 90s, 15m, 12h, 30d or 4w. Raises argparse.ArgumentTypeError."""
    found = re.fullmatch(r"(\d{1,6})([smhdw])", text) or (re.fullmatch(r"(0)()", text))
    if found is None:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no duration; allowed are numbers with s, m, h, d or w")
    return int(found[1]) * float(_UNITS_S.get(found[2], 1))


def expiry_ms(text: str) -> int:
    """When a key expires: after a duration, or at the end of a day of UTC. Raises argparse.ArgumentTypeError."""
    now_ms = int(1000 * time.time())
    try:
        ends_ms = 1000 * (int(_day_s(text)) + 86_400) if re.fullmatch(r"\d{4}-\d\d-\d\d", text) else 0
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day") from None
    ends_ms = ends_ms or now_ms + int(1000 * duration_s(text))
    if ends_ms <= now_ms:
        raise argparse.ArgumentTypeError(f"{text!r} is over")
    return ends_ms


def _day_s(text: str) -> float:
    import calendar

    return calendar.timegm(time.strptime(text, "%Y-%m-%d"))


def add_quota(parser: argparse.ArgumentParser) -> None:
    """The limits of a key or a tenant; `none` takes one away."""
    parser.add_argument("--requests-per-minute", type=_limit, metavar="N")
    parser.add_argument("--tokens-per-minute", type=_limit, metavar="N", help="of prompts and answers")
    parser.add_argument("--max-concurrent", type=_limit, metavar="N", help="answers under way at once, streamed or not")
    parser.add_argument("--monthly-budget", type=_budget, metavar="AMOUNT", help="in units of the currency, each month")


def quota_values(arguments: argparse.Namespace) -> dict[str, int | None]:
    """Those limits that were named."""
    given = {
        "requests_per_minute": arguments.requests_per_minute,
        "tokens_per_minute": arguments.tokens_per_minute,
        "max_concurrent": arguments.max_concurrent,
        "monthly_budget_nano": arguments.monthly_budget,
    }
    return {name: value[0] for name, value in given.items() if value is not None}


def _limit(text: str) -> tuple[int | None]:
    if text == "none":
        return (None,)
    if not re.fullmatch(r"[1-9]\d{0,14}", text):
        raise argparse.ArgumentTypeError(f"{text[:20]!r}: a whole number from 1 is needed, or none")
    return (int(text),)


def _budget(text: str) -> tuple[int | None]:
    if text == "none":
        return (None,)
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text):
        raise argparse.ArgumentTypeError(f"{text[:20]!r}: an amount from 0 to 999999999 is needed, or none")
    return (round(NANO * float(text)),)


def shown_time(time_ms: int | None) -> str:
    """As people read it, in UTC; "" for none."""
    return "" if time_ms is None else time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(time_ms / 1000))


def table(rows: Sequence[Sequence[str]], numbers_from: int | None = None) -> str:
    """Columns as wide as their widest cell; those from `numbers_from` on end together."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    start = len(widths) if numbers_from is None else numbers_from
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index >= start else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def name(text: str) -> str:
    """Of a tenant or a person. Raises argparse.ArgumentTypeError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@/-]{0,127}", text):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: up to 128 of A-Z, a-z, 0-9, . _ @ / and - are allowed")
    return text


def run_safely(command: str, do: Any, arguments: argparse.Namespace) -> int:
    """Run it; the exit status."""
    import sys

    from ..errors import GatewayError

    try:
        return int(do(arguments) or 0)
    except GatewayError as error:
        print(f"trireme {command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, SettingError) else 1
