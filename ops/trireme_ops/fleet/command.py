"""`trireme fleet`: several Triton servers on this machine, behind HAProxy, with gateways, Redis and Prometheus."""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from ..arguments import address, count, port
from ..embedded import ADDRESS
from ..layout import Layout
from ..releases.haproxy import WEIGHTED_ALGORITHMS
from .display import different_releases, print_status
from .fleet import Fleet
from .plan import MAX_REPLICAS, check_folder, fleet_folder, read_plan
from .starting import check_certificate, check_exposure, check_files, check_ports, check_programs, plan_of, prepare


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "fleet",
        help="several servers on this machine, behind HAProxy",
        description="Triton servers with supervisors of their own, HAProxy in front of them, gateways, Redis and "
        "Prometheus. All of it runs in the background until `trireme fleet down`; what it keeps is in .trireme/fleet.",
    )
    acts = parser.add_subparsers(dest="act", required=True, metavar="ACT")
    _add_up(acts)
    status = acts.add_parser("status", help="what runs, and how it is")
    status.add_argument("--json", action="store_true", help="one JSON object")
    status.set_defaults(run=_status)
    acts.add_parser("down", help="stop it all, when what is under way is answered").set_defaults(run=_down)
    scale = acts.add_parser("scale", help="another number of servers; those that go are drained first")
    scale.add_argument("replicas", type=_replicas, metavar="N")
    scale.set_defaults(run=_scale)
    drain = acts.add_parser("drain", help="have a server get nothing new, and wait until what it has is answered")
    drain.add_argument("server")
    drain.add_argument("--force", action="store_true", help="also the only one that takes requests")
    drain.set_defaults(run=_drain)
    resume = acts.add_parser("resume", help="have a drained server get requests again")
    resume.add_argument("server")
    resume.set_defaults(run=_resume)
    restart = acts.add_parser("restart", help="restart servers, drained, one after the other")
    restart.add_argument("servers", nargs="*", metavar="SERVER", help="default: all")
    restart.set_defaults(run=_restart)
    reload = acts.add_parser("reload", help="have certificates, settings and rules read again, while requests go on")
    reload.set_defaults(run=_reload)


def _add_up(acts: "argparse._SubParsersAction[Any]") -> None:
    up = acts.add_parser("up", help="start it, and wait until it serves")
    up.add_argument("--replicas", type=_replicas, default=3, metavar="N", help="servers (default 3)")
    up.add_argument("--gateways", type=_gateways, default=1, metavar="N", help="gateways (default 1; 0: none)")
    up.add_argument("--address", type=address, default=ADDRESS, metavar="IPV4", help="the edge's (default: 127.0.0.1)")
    for name, default, what in (
        ("http", 8000, "Triton's HTTP"),
        ("grpc", 8001, "Triton's gRPC"),
        ("openai", 8080, "OpenAI's API"),
        ("haproxy-metrics", 8405, "HAProxy's figures"),
        ("prometheus", 9090, "Prometheus"),
        ("redis", 6380, "Redis"),
    ):
        up.add_argument(
            f"--{name}-port", type=port, default=default, metavar="PORT", help=f"{what} (default {default}; 0: any)"
        )
    up.add_argument(
        "--first-port", type=port, default=8100, metavar="PORT", help="of the servers behind (default 8100; 0: any)"
    )
    up.add_argument("--tls-certificate", type=Path, metavar="PEM", help="certificate, chain and key: TLS at the edge")
    up.add_argument("--balance", choices=WEIGHTED_ALGORITHMS, default="leastconn", help="default: leastconn")
    up.add_argument(
        "--client-requests", type=_number, default=0, metavar="N", help="that an address may send in 10 s (0: any)"
    )
    up.add_argument(
        "--client-streams", type=_number, default=0, metavar="N", help="that an address may have under way (0: any)"
    )
    up.add_argument("--gateway-config", type=Path, metavar="TOML", help="the gateways' settings, without servers")
    up.add_argument("--metrics-key-file", type=Path, metavar="FILE", help="a key made with `keys create --metrics`")
    up.add_argument("--insecure", action="store_true", help="another --address than this machine's, without any keys")
    up.add_argument("--release", metavar="NAME", help="what servers serve on which no release was ever put live")
    up.add_argument("--version-key", type=Path, metavar="PUB", help="load only versions signed for this key")
    up.add_argument("--no-prometheus", action="store_true", help="without Prometheus")
    up.add_argument("--drain-timeout", type=count, default=30, metavar="SECONDS", help="default 30")
    up.set_defaults(run=_up)


def _replicas(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_REPLICAS:
        raise argparse.ArgumentTypeError(f"{text!r}: 1 to {MAX_REPLICAS} servers can be")
    return int(text)


def _gateways(text: str) -> int:
    if not text.isdecimal() or int(text) > MAX_REPLICAS:
        raise argparse.ArgumentTypeError(f"{text!r}: 0 to {MAX_REPLICAS} gateways can be")
    return int(text)


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) > 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number from 0 (any) to 1000000 is needed")
    return int(text)


def _say(message: str) -> None:
    print(message, flush=True)


def _up(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    layout = Layout.find()
    folder = fleet_folder(layout)
    check_folder(folder)
    check_files(arguments)
    check_exposure(arguments)
    fleet = Fleet(layout, plan_of(arguments, folder, _say), _say)
    with fleet.changing():
        if not fleet.processes.is_running():
            check_programs(fleet.plan)
            fleet.wait_until_ended()
            check_ports(fleet.plan)
            prepare(layout, fleet.plan, arguments.release, _say)
        fleet.up()
    plan, edge = fleet.plan, fleet.plan.edge
    scheme = "https" if edge.tls_certificate else "http"
    lines = [
        f"Ready after {time.monotonic() - started:.1f} s.",
        f"  gRPC        {edge.grpc}{'  (TLS)' if edge.tls_certificate else ''}",
        f"  HTTP        {scheme}://{edge.http}",
    ]
    if plan.gateways:
        lines.append(f"  OpenAI      {scheme}://{edge.openai}/v1")
    if plan.prometheus:
        lines.append(f"  Prometheus  http://{plan.prometheus}")
    lines += [
        f"  logs        {plan.logs}",
        "See it: trireme fleet status, trireme top --fleet. Stop it: trireme fleet down",
    ]
    if difference := different_releases(plan, fleet.status()):
        lines.append(difference)
    _say("\n".join(lines))
    return 0


def _status(arguments: argparse.Namespace) -> int:
    fleet = Fleet.find(Layout.find(), _say)
    servers = fleet.status()
    others = [one for one in fleet.processes.all() if one.name not in {server.name for server in servers}]
    if arguments.json:
        values = [dataclasses.asdict(server) for server in servers]
        print(json.dumps({"servers": values, "others": [dataclasses.asdict(one) for one in others]}))
    else:
        print_status(fleet.plan, servers, others)
    return 0 if all(server.state == "ready" for server in servers) else 1


def _down(_arguments: argparse.Namespace) -> int:
    layout = Layout.find()
    fleet = Fleet(layout, read_plan(layout), _say)
    with fleet.changing():
        fleet.down()
    _say("Stopped.")
    return 0


def _scale(arguments: argparse.Namespace) -> int:
    fleet = Fleet.find(Layout.find(), _say)
    with fleet.changing():
        before = len(fleet.plan.servers)
        fleet.scale(arguments.replicas)
    _say(f"{before} before, {arguments.replicas} now.")
    return 0


def _drain(arguments: argparse.Namespace) -> int:
    fleet = Fleet.find(Layout.find(), _say)
    with fleet.changing():
        fleet.drain(arguments.server, arguments.force)
    _say(f"{arguments.server} is at rest. Back to work: trireme fleet resume {arguments.server}")
    return 0


def _resume(arguments: argparse.Namespace) -> int:
    fleet = Fleet.find(Layout.find(), _say)
    with fleet.changing():
        fleet.resume(arguments.server)
    return 0


def _restart(arguments: argparse.Namespace) -> int:
    fleet = Fleet.find(Layout.find(), _say)
    with fleet.changing():
        fleet.restart(arguments.servers or [server.name for server in fleet.plan.servers])
    return 0


def _reload(_arguments: argparse.Namespace) -> int:
    fleet = Fleet.find(Layout.find(), _say)
    if fleet.plan.edge.tls_certificate:
        check_certificate(Path(fleet.plan.edge.tls_certificate))
    with fleet.changing():
        fleet.reload()
    _say("HAProxy, the gateways and Prometheus have read their files again.")
    return 0
