"""`trireme keys`: who may ask the gateway."""

import argparse
import json
import sys
import time
from typing import Any

from . import arguments as shared
from .quota import NANO, Quota


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "keys",
        help="create, list, rotate and revoke keys of the gateway",
        description="What is done here is in force in every gateway of the database within a second.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    create = actions.add_parser("create", help="make a key; it is shown once")
    create.add_argument("--tenant", required=True, type=shared.name, help="whose key it is: tenants share quotas")
    create.add_argument("--name", type=shared.name, help="what it is for")
    create.add_argument("--model", action="append", default=[], metavar="ID", help="may ask this model (default: all)")
    create.add_argument("--expires", type=shared.expiry_ms, metavar="WHEN", help="30d, 12h, or a last day: 2026-12-31")
    create.add_argument("--metrics", action="store_true", help="may read /metrics, where keys are required")
    shared.add_quota(create)
    create.set_defaults(do=_create)

    listing = actions.add_parser("list", help="the keys, without their secrets")
    listing.add_argument("--tenant", type=shared.name, help="of this one only")
    listing.add_argument("--json", action="store_true", help="for programs")
    listing.set_defaults(do=_list)

    rotate = actions.add_parser("rotate", help="make another key with the same rights; the old one ends later")
    rotate.add_argument("id")
    rotate.add_argument(
        "--grace",
        type=shared.duration_s,
        default=3600.0,
        metavar="TIME",
        help="how long the old one works (default: 1h)",
    )
    rotate.set_defaults(do=_rotate)

    revoke = actions.add_parser("revoke", help="no more with this key, at once")
    revoke.add_argument("id")
    revoke.set_defaults(do=_revoke)

    limit = actions.add_parser("limit", help="change the quota of a key or a tenant; none takes a limit away")
    whose = limit.add_mutually_exclusive_group(required=True)
    whose.add_argument("--key", metavar="ID")
    whose.add_argument("--tenant", type=shared.name)
    shared.add_quota(limit)
    limit.set_defaults(do=_limit)

    for action in (create, listing, rotate, revoke, limit):
        shared.add_database(action)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it; the exit status."""
    return shared.run_safely("keys", arguments.do, arguments)


def _create(arguments: argparse.Namespace) -> None:
    from . import keys

    quota = Quota(**shared.quota_values(arguments))
    made = keys.create(
        shared.opened(arguments),
        arguments.tenant,
        arguments.name or "",
        arguments.model,
        arguments.expires,
        quota,
        arguments.metrics,
    )
    _show(made.id, made.text)


def _show(key_id: str, text: str) -> None:
    # The key alone goes to standard output, for a pipe into wherever secrets are kept.
    print(f"Key {key_id}. It is shown this once; it is not kept anywhere:", file=sys.stderr, flush=True)
    print(text)


def _rotate(arguments: argparse.Namespace) -> None:
    from . import keys

    made = keys.rotate(shared.opened(arguments), arguments.id, arguments.grace)
    _show(made.id, made.text)


def _revoke(arguments: argparse.Namespace) -> None:
    from . import keys

    old = keys.revoke(shared.opened(arguments), arguments.id)
    print(f"The key {old.id} of {old.tenant} is revoked.")


def _limit(arguments: argparse.Namespace) -> None:
    from . import keys

    values = shared.quota_values(arguments)
    database = shared.opened(arguments)
    if arguments.key:
        quota = keys.limit_key(database, arguments.key, values)
    else:
        quota = keys.limit_tenant(database, arguments.tenant, values)
    print(f"{arguments.key or arguments.tenant}: {_quota(quota) or 'no limits of its own'}")


def _quota(quota: Quota) -> str:
    found = [
        (quota.requests_per_minute, "requests/min"),
        (quota.tokens_per_minute, "tokens/min"),
        (quota.max_concurrent, "at once"),
        (None if quota.monthly_budget_nano is None else quota.monthly_budget_nano / NANO, "a month"),
    ]
    return ", ".join(f"{value:,.15g} {unit}" for value, unit in found if value is not None)


def _list(arguments: argparse.Namespace) -> None:
    from .keys import all_keys

    with shared.opened(arguments).read() as connection:
        found = [key for key in all_keys(connection) if arguments.tenant in (None, key.tenant)]
    now_ms = 1000 * time.time()
    if arguments.json:
        for key in found:
            values = {
                "id": key.id,
                "tenant": key.tenant,
                "name": key.name,
                "state": key.state(now_ms),
                "models": sorted(key.models),
                "metrics": key.may_read_metrics,
                "created_ms": key.created_ms,
                "expires_ms": key.expires_ms,
                "revoked_ms": key.revoked_ms,
                **vars(key.quota),
            }
            print(json.dumps(values))
        return
    if not found:
        print("There are no keys. `trireme keys create --tenant NAME` makes one.")
        return
    rows = [["id", "tenant", "name", "state", "created", "ends", "models", "quota"]]
    for key in found:
        ends = shared.shown_time(key.revoked_ms or key.expires_ms) or "never"
        models = ", ".join(sorted(key.models)) or "all"
        models += ", metrics" if key.may_read_metrics else ""
        state, created = key.state(now_ms), shared.shown_time(key.created_ms)
        rows.append([key.id, key.tenant, key.name or "-", state, created, ends, models, _quota(key.quota) or "-"])
    print(shared.table(rows))
