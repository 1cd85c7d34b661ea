"""`trireme release`: one version of each model of an LLM, put live as a whole under traffic, and taken back."""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..arguments import count
from ..errors import OperatorError
from ..layout import Layout
from .llm import DEFAULT_LLM

_DEFAULT_SERVER = "127.0.0.1:8003"


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Register the subcommand and those below it."""
    parser = commands.add_parser("release", help="put versions live as a whole, watch them, take them back")
    acts = parser.add_subparsers(dest="act", required=True, metavar="ACT")
    for add in (_create, _list, _show, _diff, _preflight, _promote, _rollback, _status, _shadow, _apply, _log):
        add(acts)


def _act(acts: Any, name: str, text: str, run: Callable[[argparse.Namespace], int], servers: bool) -> Any:
    parser = acts.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument("--json", action="store_true", help="for programs")
    if servers:
        where = parser.add_mutually_exclusive_group()
        where.add_argument(
            "--server",
            default=_DEFAULT_SERVER,
            metavar="HOST:PORT",
            help=f"its health endpoint (default {_DEFAULT_SERVER})",
        )
        where.add_argument("--fleet", type=Path, metavar="FILE", help="a TOML file that names several servers")
    parser.set_defaults(run=run)
    return parser


def _fleet(arguments: argparse.Namespace) -> Any:
    from .control import Address
    from .fleet import Fleet, read_fleet

    if arguments.fleet is not None:
        return read_fleet(arguments.fleet)
    Address.parse(arguments.server)
    return Fleet.of_one(arguments.server)


def _print(document: Any) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False))


# create, list, show, diff


def _create(acts: Any) -> None:
    parser = _act(
        acts, "create", "pin one version of each model of an LLM, and the settings they run with", _run_create, False
    )
    parser.add_argument("--name", required=True, help="up to 40 of A-Z, a-z, 0-9, _ and -")
    parser.add_argument("--llm", default=DEFAULT_LLM, help=f"the LLM, by its public ensemble (default {DEFAULT_LLM})")
    parser.add_argument("--from", dest="base", metavar="RELEASE", help="start with what another release says")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="changes",
        help="MODEL=VERSION, settings.KEY=VALUE, instances.MODEL=COUNT or sampling.KEY=VALUE; a model that is not "
        "named has its newest version",
    )
    parser.add_argument("--anyway", action="store_true", help="write it even if preflight says that it cannot go live")
    parser.add_argument(
        "--smoke", type=Path, metavar="FILE", help="prompts with expected answers (default: releases/smoke/LLM.jsonl)"
    )


def _run_create(arguments: argparse.Namespace) -> int:
    from ..checks import Status
    from .preflight import preflight
    from .release import create, propose, read_release
    from .smoke import default_smoke, read_smoke

    layout = Layout.find()
    changes = {}
    for change in arguments.changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise OperatorError(f"--set {change!r}: KEY=VALUE is needed")
        if key in changes:
            raise OperatorError(f"--set names {key} twice")
        changes[key] = value
    base = read_release(layout, arguments.base) if arguments.base else None
    smoke: Any = None
    if arguments.smoke is not None:
        smoke = tuple(item.to_json() for item in read_smoke(arguments.smoke))
    elif base is None:
        smoke = default_smoke(layout, arguments.llm)
    llm = base.llm if base is not None and arguments.llm == DEFAULT_LLM else arguments.llm
    release = propose(layout, arguments.name, llm, changes, base, smoke)
    failed = [finding for finding in preflight(layout, release) if finding.status is Status.FAIL]
    if failed and not arguments.anyway:
        raise OperatorError(
            f"{release.name} could not go live, and is not written: {failed[0].check}: {failed[0].detail} "
            f"(-> {failed[0].fix}); --anyway writes it"
        )
    if not release.smoke:
        wanted = f"releases/smoke/{release.llm}.jsonl"
        warning = "no prompts with expected answers, so nobody will know whether it answers well; they go into"
        print(f"trireme: {warning} {wanted}", file=sys.stderr)
    path = create(layout, release)
    if arguments.json:
        _print(release.to_json())
    else:
        print(
            f"{path.relative_to(layout.root)} pins {_versions(release)}, with {len(release.smoke)} prompts to prove it."
        )
        print(f"Put it live: trireme release promote {release.name}")
    return 0


def _versions(release: Any) -> str:
    return ", ".join(f"{model}/{number}" for model, number in release.versions.items())


def _list(acts: Any) -> None:
    _act(acts, "list", "list the releases of this checkout", _run_list, False)


def _run_list(arguments: argparse.Namespace) -> int:
    from .release import read_release, release_names

    layout = Layout.find()
    releases, problems = [], []
    for name in release_names(layout):
        try:
            releases.append(read_release(layout, name))
        except OperatorError as error:
            problems.append(f"trireme: {error}")
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    if arguments.json:
        _print([release.to_json() for release in releases])
        return int(bool(problems))
    rows = [("RELEASE", "LLM", "CREATED", "BY", "VERSIONS")]
    rows += [(one.name, one.llm, one.created_at, one.created_by, _versions(one)) for one in releases]
    _print_table(rows)
    return int(bool(problems))


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _show(acts: Any) -> None:
    parser = _act(acts, "show", "show what a release says", _run_show, False)
    parser.add_argument("name")


def _run_show(arguments: argparse.Namespace) -> int:
    from .release import read_release

    release = read_release(Layout.find(), arguments.name)
    if arguments.json:
        _print(release.to_json())
        return 0
    print(f"{release.name}: a release of {release.llm}, made by {release.created_by} at {release.created_at}")
    for model, number in release.versions.items():
        print(f"  {model}/{number}  manifest {release.manifests[model][:12]}")
    for section in ("settings", "instances", "sampling"):
        for key, value in getattr(release, section).items():
            print(f"  {section}.{key} = {value}")
    print(f"  {len(release.smoke)} prompts with expected answers")
    return 0


def _diff(acts: Any) -> None:
    parser = _act(acts, "diff", "show what two releases say differently; 1 if they do", _run_diff, False)
    parser.add_argument("one")
    parser.add_argument("other")


def _run_diff(arguments: argparse.Namespace) -> int:
    from .release import differences, read_release

    layout = Layout.find()
    found = differences(read_release(layout, arguments.one), read_release(layout, arguments.other))
    if arguments.json:
        _print([{"key": key, arguments.one: one, arguments.other: other} for key, one, other in found])
    elif found:
        short = [
            (key, *(value if len(value) < 60 else f"{value[:57]}..." for value in values)) for key, *values in found
        ]
        _print_table([("", arguments.one, arguments.other), *short])
    else:
        print(f"{arguments.one} and {arguments.other} say the same.")
    return int(bool(found))


# preflight, promote, rollback, apply


def _preflight(acts: Any) -> None:
    parser = _act(acts, "preflight", "look whether a release can go live; nothing is loaded", _run_preflight, False)
    parser.add_argument("name")


def _run_preflight(arguments: argparse.Namespace) -> int:
    from ..checks import Status
    from ..doctor import render
    from .preflight import preflight
    from .release import read_release

    layout = Layout.find()
    findings = preflight(layout, read_release(layout, arguments.name))
    if arguments.json:
        _print([asdict(finding) for finding in findings])
    else:
        print(render(findings))
    return int(any(finding.status is Status.FAIL for finding in findings))


def _add_promote_options(parser: Any) -> None:
    parser.add_argument(
        "--canary",
        type=_percents,
        metavar="P,P,...",
        help="shares of the traffic in percent, where a balancer gives them",
    )
    parser.add_argument("--hold", type=_seconds, metavar="SECONDS", help="how long each share is watched (default 10s)")
    parser.add_argument("--max-error-rate", type=_rate, metavar="RATE", help="0.1%% or 0.001 (default 0.1%%)")
    parser.add_argument(
        "--max-ttft-ratio", type=_positive, metavar="RATIO", help="its TTFT over the old one's (default 1.3)"
    )
    parser.add_argument("--min-score", type=_rate, metavar="SCORE", help="of the smoke set, 0 to 1 (default 0.95)")
    parser.add_argument(
        "--max-unavailable", type=count, metavar="N", help="servers at a time (default: as the fleet file says, or 1)"
    )
    parser.add_argument(
        "--keep-old", action="store_true", default=None, help="leave the old release loaded, to go back at once"
    )
    parser.add_argument(
        "--drain-timeout", type=_seconds, metavar="SECONDS", help="for the last old requests (default 600s)"
    )


def _options(arguments: argparse.Namespace, **defaults: Any) -> Any:
    from .promote import Options

    given = {
        "canary": arguments.canary,
        "hold_s": arguments.hold,
        "max_error_rate": arguments.max_error_rate,
        "max_ttft_ratio": arguments.max_ttft_ratio,
        "min_score": arguments.min_score,
        "max_unavailable": arguments.max_unavailable,
        "keep_old": arguments.keep_old,
        "drain_timeout_s": arguments.drain_timeout,
    }
    return Options(**{**defaults, **{key: value for key, value in given.items() if value is not None}})


def _promote(acts: Any) -> None:
    parser = _act(acts, "promote", "put a release live; any breach, or Ctrl-C, takes it back", _run_promote, True)
    parser.add_argument("name")
    _add_promote_options(parser)


def _run_promote(arguments: argparse.Namespace) -> int:
    from .release import read_release

    return _carry_out(arguments, read_release(Layout.find(), arguments.name), _options(arguments))


def _carry_out(arguments: argparse.Namespace, release: Any, options: Any, act: str = "promote") -> int:
    from .audit import AuditLog
    from .promote import promote

    fleet = _fleet(arguments)
    shown = _shown(arguments)
    try:
        outcome = promote(fleet, release, options, shown, AuditLog(Layout.find()), act)
    finally:
        shown.close()
    if arguments.json:
        print(json.dumps({"kind": "outcome", **asdict(outcome)}, ensure_ascii=False))
    elif not outcome.is_promoted:
        print(f"trireme: {release.name} was rolled back: {outcome.why}", file=sys.stderr)
    if outcome.missing and not arguments.json:
        print(f"trireme: not on {', '.join(outcome.missing)}; trireme release apply catches up", file=sys.stderr)
    return 0 if outcome.is_promoted and not outcome.missing else 1


def _shown(arguments: argparse.Namespace) -> Any:
    """Where events go; from now on whatever ends the command does so as Ctrl-C does: what was begun is taken back."""
    from .display import display

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    return display(arguments.json)


def _rollback(acts: Any) -> None:
    parser = _act(acts, "rollback", "go back to the last release that proved itself", _run_rollback, True)
    parser.add_argument("--llm", default=DEFAULT_LLM)
    _add_promote_options(parser)


def _run_rollback(arguments: argparse.Namespace) -> int:
    from .audit import AuditLog
    from .rollback import rollback

    fleet = _fleet(arguments)
    shown = _shown(arguments)
    try:
        outcome = rollback(fleet, arguments.llm, _options(arguments), shown, AuditLog(Layout.find()))
    finally:
        shown.close()
    if arguments.json:
        print(json.dumps({"kind": "outcome", **asdict(outcome)}, ensure_ascii=False))
    return int(bool(outcome.missing))


def _apply(acts: Any) -> None:
    parser = _act(
        acts, "apply", "make, and put live where it is not, the release that a file declares", _run_apply, True
    )
    parser.add_argument("file", type=Path)
    parser.set_defaults(
        canary=None,
        hold=None,
        max_error_rate=None,
        max_ttft_ratio=None,
        min_score=None,
        max_unavailable=None,
        keep_old=None,
        drain_timeout=None,
    )


def _run_apply(arguments: argparse.Namespace) -> int:
    from .apply import declared, read_declaration

    declaration = read_declaration(arguments.file)
    release = declared(Layout.find(), arguments.file, declaration)
    return _carry_out(arguments, release, declaration.options, "apply")


# status, log, shadow


def _status(acts: Any) -> None:
    parser = _act(acts, "status", "what is live on each server, and what is not as it should be", _run_status, True)
    parser.add_argument("--look-only", action="store_true", help="do not settle what is found half done")


def _run_status(arguments: argparse.Namespace) -> int:
    from .audit import AuditLog
    from .display import Lines
    from .status import status, table

    servers = status(_fleet(arguments), Lines(sys.stderr), not arguments.look_only, AuditLog(Layout.find()))
    if arguments.json:
        _print([server.to_json() for server in servers])
    else:
        print(table(servers))
    return int(any(server.problem or server.drift for server in servers))


def _log(acts: Any) -> None:
    parser = _act(acts, "log", "who did what, when, and why it ended", _run_log, False)
    parser.add_argument("--last", type=count, default=40, metavar="N", help="lines (default 40)")


def _run_log(arguments: argparse.Namespace) -> int:
    from .audit import AuditLog

    lines = AuditLog(Layout.find()).lines()[-arguments.last :]
    for line in lines:
        if arguments.json:
            print(json.dumps(line, ensure_ascii=False))
        else:
            where = f"[{line['server']}] " if line.get("server") else ""
            release = f" {line['release']}" if line.get("release") else ""
            what = f"{line['act']}{release} {where}{line['step']} {line.get('result', '')}"
            print(f"{line['at']} {line['operator']} {what}: {line.get('text', '')}")
    return 0


def _shadow(acts: Any) -> None:
    parser = _act(
        acts, "shadow", "copy a share of the traffic to a release, and compare what it answers", _run_shadow, True
    )
    parser.add_argument("name")
    parser.add_argument("--fraction", type=_rate, default=0.1, help="of the requests, 0 to 1 (default 0.1)")
    parser.add_argument(
        "--duration", type=_seconds, default=60.0, metavar="SECONDS", help="default 60s; Ctrl-C ends it early"
    )
    parser.add_argument(
        "--show-texts", action="store_true", help="a few prompts and answers that differ, in the report"
    )


def _run_shadow(arguments: argparse.Namespace) -> int:
    from .audit import AuditLog
    from .release import read_release
    from .shadowing import report_table, shadow

    layout = Layout.find()
    release = read_release(layout, arguments.name)
    fleet = _fleet(arguments)
    shown = _shown(arguments)
    try:
        report = shadow(
            fleet, release, arguments.fraction, arguments.duration, arguments.show_texts, shown, AuditLog(layout)
        )
    finally:
        shown.close()
    if arguments.json:
        print(json.dumps({"kind": "report", **report}, ensure_ascii=False))
    else:
        print(report_table(report))
    return 0


# Values


def _percents(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part.rstrip("%")) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < one < 100 for one in found) or list(found) != sorted(set(found)):
        raise argparse.ArgumentTypeError(f"{text!r}: shares in percent are needed, rising, each between 0 and 100")
    return found


def _seconds(text: str) -> float:
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    unit = next((unit for unit in ("ms", "s", "m", "h") if text.endswith(unit)), "")
    try:
        value = float(text.removesuffix(unit)) * units.get(unit, 1.0)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r}: a time such as 500ms, 30s or 2m is needed, at most a day")
    return value


def _rate(text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a share such as 0.1% or 0.001 is needed, at most 1")
    return value


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r}: a number above 0 is needed")
    return value
