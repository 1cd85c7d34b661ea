"""A fleet's status in a terminal."""

import sys
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from rich.console import Console
from rich.table import Table

from .fleet import ServerStatus
from .plan import FleetPlan
from .processes import ProcessStatus


def different_releases(plan: FleetPlan, servers: Sequence[ServerStatus]) -> str:
    """What to say where servers that answer serve different releases; empty where they do not."""
    found: dict[str, list[str]] = {}
    for server in servers:
        if server.state != "down":
            found.setdefault(_releases(server), []).append(server.name)
    if len(found) < 2:
        return ""
    says = "; ".join(
        f"{', '.join(names)}: {'no release' if releases == '-' else releases}" for releases, names in found.items()
    )
    return (
        f"Servers serve different releases. {says}. Unless one is on its way: trireme release promote NAME "
        f"--fleet {plan.fleet_file}"
    )


def _releases(server: ServerStatus) -> str:
    return ", ".join(sorted({name for name in server.releases.values() if name})) or "-"


def print_status(plan: FleetPlan, servers: Sequence[ServerStatus], others: Sequence[ProcessStatus]) -> None:
    """Print it: the servers, the other parts, and until when the certificate is good."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table(box=None, pad_edge=False)
    for column in ("server", "state", "release", "in flight", "HAProxy", "gRPC", "process"):
        table.add_column(column, no_wrap=column != "process")
    colours = {"ready": "green", "draining": "yellow", "not ready": "yellow", "down": "red"}
    for server in servers:
        table.add_row(
            server.name,
            f"[{colours[server.state]}]{server.state}[/]",
            _releases(server),
            "-" if server.in_flight is None else str(server.in_flight),
            f"{server.haproxy or '-'}{'' if server.weight in (None, 100) else f' ({server.weight})'}",
            plan.server(server.name).grpc,
            server.process,
        )
    console.print(table)
    if difference := different_releases(plan, servers):
        console.print(difference, style="yellow", soft_wrap=True)
    console.print()
    table = Table(box=None, pad_edge=False)
    for column in ("part", "state", "address", "process"):
        table.add_column(column)
    where = {"haproxy": f"gRPC {plan.edge.grpc}, HTTP {plan.edge.http}, OpenAI {plan.edge.openai or 'off'}"}
    if plan.edge.tls_certificate:
        where["haproxy"] += ", all with TLS"
    where |= {"redis": plan.redis, "prometheus": plan.prometheus, "blackbox": plan.blackbox}
    where |= {gateway.name: gateway.address for gateway in plan.gateways}
    for one in others:
        table.add_row(one.name, one.state.lower(), where.get(one.name, ""), one.description)
    console.print(table)
    if plan.edge.tls_certificate:
        ends = x509.load_pem_x509_certificates(Path(plan.edge.tls_certificate).read_bytes())[0].not_valid_after_utc
        console.print(f"\ncertificate  until {ends:%Y-%m-%d %H:%M} UTC  {plan.edge.tls_certificate}")
