"""What `trireme fleet up` is asked for, and all that would keep it from starting, said before anything is."""

import argparse
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from .. import ports
from ..embedded import ADDRESS, Ports
from ..engines import prepare_engines
from ..errors import OperatorError
from ..layout import Layout
from ..releases.release import read_release
from ..releases.toml_file import read_toml
from ..releases.view import View
from ..serve import check
from .configs import program
from .fleet import next_servers
from .memory import prepare_memories
from .plan import Edge, FleetPlan, GatewayPlan


def prepare(layout: Layout, plan: FleetPlan, release: str | None, say: Callable[[str], None]) -> None:
    """Check what servers will load, and make its engines: once for all that load the same."""
    first = None if release is None else read_release(layout, release)
    prepare_memories(layout, plan.folder, [server.name for server in plan.servers], say)
    layouts: list[Layout] = []
    for server in plan.servers:
        loaded = View.of_server(layout, server.name).layout_of_live(first, False)
        if loaded not in layouts:
            layouts.append(loaded)
    for loaded in layouts:
        check(loaded, Ports(0, 0, 0, 0))
        prepare_engines(loaded)


def plan_of(arguments: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> FleetPlan:
    """What the options ask for, with ports that are free where any will do."""
    free = iter(ports.free_ports(7 + arguments.gateways + 4 * arguments.replicas))

    def at(number: int, host: str = ADDRESS) -> str:
        return f"{host}:{number or next(free)}"

    def path(given: Path | None) -> str:
        return "" if given is None else str(given.resolve())

    edge = Edge(
        grpc=at(arguments.grpc_port, arguments.address),
        http=at(arguments.http_port, arguments.address),
        openai=at(arguments.openai_port, arguments.address) if arguments.gateways else "",
        metrics=at(arguments.haproxy_metrics_port),
        socket=str(folder / "haproxy.sock"),
        tls_certificate=path(arguments.tls_certificate),
        balance=arguments.balance,
        client_requests_per_10s=arguments.client_requests,
        client_streams=arguments.client_streams,
    )
    first_gateway = arguments.first_port - 10 if arguments.first_port else 0
    return FleetPlan(
        folder,
        edge,
        next_servers((), arguments.replicas, free, arguments.first_port, release=arguments.release or ""),
        tuple(
            GatewayPlan(f"gateway-{number + 1}", at(first_gateway + number if first_gateway else 0))
            for number in range(arguments.gateways)
        ),
        prometheus="" if arguments.no_prometheus else at(arguments.prometheus_port),
        redis=at(arguments.redis_port) if arguments.gateways else "",
        drain_timeout_s=arguments.drain_timeout,
        gateway_config=path(arguments.gateway_config),
        metrics_key_file=path(arguments.metrics_key_file),
        version_key=path(arguments.version_key),
        blackbox=at(0) if _wants_blackbox(arguments, say) else "",
        options=tuple(sys.argv[sys.argv.index("up") + 1 :]) if "up" in sys.argv else (),
    )


def _wants_blackbox(arguments: argparse.Namespace, say: Callable[[str], None]) -> bool:
    """Whether something is to look at the edge's certificate for Prometheus, and can."""
    if arguments.tls_certificate is None or arguments.no_prometheus:
        return False
    if shutil.which("prometheus-blackbox-exporter") is not None:
        return True
    say("The certificate's end is not watched: prometheus-blackbox-exporter is not installed.")
    return False


def check_files(arguments: argparse.Namespace) -> None:
    """Raise OperatorError naming the option and the path, for files that options name and that cannot be used."""
    for option in ("tls_certificate", "gateway_config", "metrics_key_file", "version_key"):
        given = getattr(arguments, option)
        if given is not None and not given.is_file():
            why = "no file" if given.exists() else "no such file"
            raise OperatorError(f"{given}: {why}; --{option.replace('_', '-')} names it")
    if arguments.tls_certificate is not None:
        check_certificate(arguments.tls_certificate)


def check_certificate(path: Path) -> None:
    """Raise OperatorError unless the PEM file holds a certificate that has not ended, and its own key."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise OperatorError(f"the certificate {path} cannot be read: {error.strerror}") from None
    try:
        certificate = x509.load_pem_x509_certificates(data)[0]
    except ValueError as error:
        raise OperatorError(f"{path} holds no certificate: {error}") from None
    key = re.search(rb"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.*?-----END \1PRIVATE KEY-----", data, re.DOTALL)
    if key is None:
        raise OperatorError(f"{path} holds no key; certificate, chain and key belong into one file")
    try:
        private = load_pem_private_key(key[0] + b"\n", None)
    except (ValueError, TypeError) as error:
        raise OperatorError(f"{path}: the key cannot be read: {error}") from None
    if private.public_key() != certificate.public_key():
        raise OperatorError(f"{path}: the key is another one's than the certificate's")
    if certificate.not_valid_after_utc.timestamp() < time.time():
        raise OperatorError(f"{path}: the certificate ended on {certificate.not_valid_after_utc:%Y-%m-%d}")


def check_exposure(arguments: argparse.Namespace) -> None:
    """Gateways on the loopback address let anybody in until there are keys; behind an edge that would be everybody."""
    if arguments.address.startswith("127.") or arguments.insecure:
        return
    config = read_toml(arguments.gateway_config) if arguments.gateway_config is not None else {}
    if arguments.gateways and not config.get("keys", {}).get("required"):
        raise OperatorError(
            f"--address {arguments.address} lets other machines in, and no key is asked for: give --gateway-config "
            "with [keys] required = true, or --insecure. Triton's own ports never ask for a key: keep them private"
        )


def check_programs(plan: FleetPlan) -> None:
    """Raise OperatorError with what to type where a program is not installed."""
    program("haproxy")
    if plan.redis:
        program("redis-server")
    if plan.prometheus:
        program("prometheus")


def check_ports(plan: FleetPlan) -> None:
    """Raise OperatorError naming the option, for a port that is in use, wanted twice or out of range."""
    edge = plan.edge
    wanted = {"--grpc-port": edge.grpc, "--http-port": edge.http, "--haproxy-metrics-port": edge.metrics}
    wanted |= {"--openai-port": edge.openai, "--prometheus-port": plan.prometheus, "--redis-port": plan.redis}
    behind = {one.address: "--first-port" for one in plan.gateways}
    for server in plan.servers:
        behind |= dict.fromkeys((server.http, server.grpc, server.metrics, server.health), "--first-port")
    named = [(address, option) for option, address in wanted.items() if address] + list(behind.items())
    seen: dict[int, str] = {}
    for where, option in named:
        host, _, number = where.rpartition(":")
        if int(number) in seen:
            raise OperatorError(f"port {number} is wanted for {seen[int(number)]} and for {option}; change one of them")
        seen[int(number)] = option
        if int(number) > 65535:
            raise OperatorError(f"port {number} is wanted, counted from {option}; 65535 is the highest there is")
        if not ports.is_local(host):
            raise OperatorError(f"{host} is no address of this machine; --address names it")
        if not ports.is_free(int(number), host):
            raise OperatorError(f"port {number} is in use; another one: {option} PORT (0: any that is free)")
