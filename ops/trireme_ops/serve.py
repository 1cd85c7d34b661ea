"""`trireme serve`: a real Triton server on this checkout, until Ctrl-C or SIGTERM."""

import argparse
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from trireme_runtime.versions import KEY_VARIABLE

from . import embedded, ports
from .arguments import add_port_arguments, address, port, ports_of, standstill
from .checks import Finding, Status, all_checks, free_gateway_port, free_ports
from .doctor import render
from .embedded import ADDRESS, INSTALLED_VARIABLE, Ports
from .engines import prepare_engines
from .errors import OperatorError
from .gateway_process import GatewayProcess
from .layout import Layout
from .model_loads import STILL_S
from .releases import endpoint
from .releases.host import ReleaseHost
from .releases.llm import llms
from .releases.metrics import ReleaseCollector
from .releases.release import read_release
from .releases.view import View, one_of_its_name
from .server import EmbeddedServer
from .supervisor import Supervisor

#: Deployment profiles. `cpu` is the model repository as committed.
PROFILES = ("cpu",)

_OLD_SERVER = (
    "The embedded tritonserver 2.51.0 is older than the security fixes of 25.07: let a private network reach it only."
)


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Register the subcommand."""
    parser = commands.add_parser("serve", help="start a Triton server on this checkout")
    add_port_arguments(parser)
    parser.add_argument(
        "--address",
        type=address,
        default=ADDRESS,
        metavar="IPV4",
        help="where the ports are (default: 127.0.0.1; 0.0.0.0: every address, for containers and private networks)",
    )
    parser.add_argument(
        "--tritonserver",
        type=Path,
        metavar="FOLDER",
        help=f"an installed Triton, such as /opt/tritonserver (default: ${INSTALLED_VARIABLE}, or the embedded one)",
    )
    parser.add_argument("--profile", choices=PROFILES, default="cpu", help="deployment profile (default: cpu)")
    parser.add_argument("--log", type=Path, help="the server's log (default: .trireme/logs/triton-HTTP_PORT.log)")
    parser.add_argument("--ready-file", type=Path, help="write addresses and process ids here, as JSON, once ready")
    parser.add_argument(
        "--version-key",
        type=Path,
        metavar="PUB",
        help=f"load only versions that are signed for this public key (default: ${KEY_VARIABLE}, or any)",
    )
    parser.add_argument(
        "--name",
        help="the name that this server's releases are remembered by (default: the HTTP port)",
    )
    parser.add_argument(
        "--release",
        metavar="NAME",
        help="what to serve if no release was ever put live on this server (default: the newest version of each model)",
    )
    parser.add_argument(
        "--replace-live", action="store_true", help="start with --release even where another one was live"
    )
    parser.add_argument(
        "--gateway-port",
        type=gateway_port,
        metavar="PORT",
        help="also start a gateway for OpenAI's API on this port (default: off; `make serve`: 8080)",
    )
    parser.add_argument("--ready-timeout", type=float, default=120, metavar="SECONDS", help="default 120")
    parser.add_argument(
        "--load-standstill",
        type=standstill,
        default=STILL_S,
        metavar="SECONDS",
        help="load again what does nothing for so long while it is loaded; inf: never (default %(default)g)",
    )
    parser.add_argument(
        "--shutdown-delay",
        type=float,
        default=0,
        metavar="SECONDS",
        help="on SIGTERM, tell balancers for so long before requests are refused (default 0; behind a balancer: 3)",
    )
    parser.add_argument("--drain-timeout", type=int, default=30, metavar="SECONDS", help="default 30")
    parser.add_argument(
        "--restart",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="start the server again when one of its processes dies (default), or end",
    )
    parser.set_defaults(run=run)


class _Signals:
    """Counts SIGINT and SIGTERM: the first asks to drain, the second to end at once."""

    def __init__(self) -> None:
        self.count = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1


def check(layout: Layout, wanted: Ports) -> None:
    """Raise OperatorError with what to type if something keeps the server from starting."""
    _refuse(all_checks(layout, wanted))


def _check_pins(layout: Layout) -> None:
    for model, number in layout.pinned.items():
        folder = layout.repositories[0] / model / str(number)
        if not folder.is_dir():
            raise OperatorError(f"{folder}: no such version, and a release that is live pins it")


def _refuse(findings: Sequence[Finding]) -> None:
    failures = [finding for finding in findings if finding.status is Status.FAIL]
    if failures:
        raise OperatorError("this machine is not ready to serve:\n" + render(failures))


def _server_name(given: str | None, wanted: Ports) -> str:
    """What a server is remembered by; one on a port that the system chooses has a name that does not come again."""
    if given is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", given):
        raise OperatorError(f"--name {given[:60]!r}: allowed are up to 40 of A-Z, a-z, 0-9, _ and -")
    return given or (str(wanted.http) if wanted.http else f"any-{os.getpid()}")


def _resolve(wanted: Ports) -> Ports:
    free = iter(ports.free_ports(4))
    numbers = (port or next(free) for port in (wanted.http, wanted.grpc, wanted.metrics, wanted.health))
    return Ports(*numbers, address=wanted.address)


def _shown(path: Path) -> str:
    """`path` as short as it can be typed here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def gateway_port(text: str) -> int | None:
    """A port from 1, or off. Raises argparse.ArgumentTypeError."""
    if text == "off":
        return None
    number = port(text)
    if not number:
        raise argparse.ArgumentTypeError("0 is no port for the gateway; allowed are 1 to 65535, and off")
    return number


def _announce(server: EmbeddedServer, gateway: GatewayProcess | None, started: float) -> None:
    host = server.ports.host
    grpc = f"{host}:{server.ports.grpc}"
    url = "" if grpc == f"{ADDRESS}:8001" else f" --url {grpc}"
    print(
        f"Ready after {time.monotonic() - started:.1f} s.\n"
        f"  gRPC     {grpc}\n"
        f"  HTTP     http://{host}:{server.ports.http}\n"
        f"  metrics  http://{host}:{server.ports.metrics}/metrics\n"
        f"  health   http://{host}:{server.ports.health}/v2/health/ready\n"
        + (f"  OpenAI   http://{gateway.address}/v1\n" if gateway is not None else "")
        + f"  log      {_shown(server.log_path)}\n"
        f"Ask it something, from another terminal:\n"
        f'  {_shown(Path(sys.argv[0]))} ask{url} "What is 37 + 58?"\n'
        f"Ctrl-C stops it.",
        flush=True,
    )


def _write_ready_file(path: Path, server: EmbeddedServer, gateway: GatewayProcess | None) -> None:
    host = server.ports.host
    ready = {
        "pid": os.getpid(),
        "triton_pid": server.process.pid,
        "http": f"{host}:{server.ports.http}",
        "grpc": f"{host}:{server.ports.grpc}",
        "metrics": f"{host}:{server.ports.metrics}",
        "health": f"{host}:{server.ports.health}",
    }
    if gateway is not None:
        ready |= {"gateway": gateway.address, "gateway_pid": gateway.pid}
    staging = path.with_name(f"{path.name}.{os.getpid()}")
    staging.write_text(json.dumps(ready), encoding="utf-8")
    staging.rename(path)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal; 0 if the server was drained, 1 if it ended by itself."""
    started = time.monotonic()
    # Until the server runs, SIGTERM is as Ctrl-C: what was begun is cleaned up.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    layout = Layout.find()
    if arguments.version_key is not None:
        if not arguments.version_key.is_file():
            raise OperatorError(f"{arguments.version_key}: no such file; --version-key names it")
        # For the checks here, and for every model that is loaded.
        os.environ[KEY_VARIABLE] = str(arguments.version_key.resolve())
    if arguments.tritonserver is not None:
        os.environ[INSTALLED_VARIABLE] = str(arguments.tritonserver.resolve())
    wanted = ports_of(arguments)
    # Said first: a server that runs has its ports, and mostly its name, too.
    _refuse([*free_ports(wanted), *free_gateway_port(arguments.gateway_port)])
    name = _server_name(arguments.name, wanted)
    with one_of_its_name(layout, name):
        return _serve(arguments, layout, wanted, name, started)


def _serve(arguments: argparse.Namespace, layout: Layout, wanted: Ports, name: str, started: float) -> int:
    resolved = _resolve(wanted)
    view = View.of_server(layout, name)
    is_kept = bool(arguments.name or wanted.http)
    if not is_kept:
        # Of a process that had this one's number.
        shutil.rmtree(view.folder, ignore_errors=True)
    first = None if arguments.release is None else read_release(layout, arguments.release)
    if arguments.replace_live and first is None:
        raise OperatorError("--replace-live needs --release NAME")
    layout = view.layout_of_live(first, arguments.replace_live)
    try:
        _check_pins(layout)
        check(layout, wanted)
        prepare_engines(layout)
    except OperatorError as error:
        live = ", ".join(release.name for release in view.live(first, arguments.replace_live))
        if not live:
            raise
        raise OperatorError(
            f"{error}\nThe server {name!r} starts with what is live on it: {live}. To start with another release: "
            f"trireme serve --name {name} --release NAME --replace-live"
        ) from error
    if first is not None:
        view.start_with(first, arguments.replace_live)
    log_path = arguments.log or layout.state / "logs" / f"triton-{resolved.http}.log"

    def say(message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    server = EmbeddedServer(
        layout, resolved, log_path.resolve(), arguments.drain_timeout, view, arguments.load_standstill, say
    )
    host = ReleaseHost(layout, server, view, name)
    gateway = None
    if arguments.gateway_port is not None:
        names = [llm.name for llm in llms(layout)]
        gateway_log = layout.state / "logs" / f"gateway-{arguments.gateway_port}.log"
        gateway = GatewayProcess(resolved, arguments.gateway_port, names, gateway_log, arguments.drain_timeout)
    control = partial(endpoint.answer, host, layout.control_key())
    signals = _Signals()

    if resolved.address != ADDRESS and embedded.installed_folder() is None:
        say(f"Listening on {resolved.address}. {_OLD_SERVER}")
    print("Starting tritonserver ...", flush=True)

    def write_ready_file() -> None:
        if arguments.ready_file:
            _write_ready_file(arguments.ready_file, server, gateway)

    def announce() -> None:
        if gateway is not None:
            gateway.start()
        _announce(server, gateway, started)
        write_ready_file()

    supervisor = Supervisor(server, lambda: signals.count > 0, say, arguments.ready_timeout, arguments.restart, control)
    host.is_serving = supervisor.is_ready

    def draining(wanted: bool | None) -> bool:
        if wanted is not None:
            supervisor.is_draining = wanted
        return supervisor.is_draining

    host.draining = draining
    supervisor.health.metrics.registry.register(ReleaseCollector(host, layout.state))
    try:
        supervisor.run(announce, write_ready_file)
        supervisor.is_draining = True
        deadline = time.monotonic() + arguments.shutdown_delay
        while time.monotonic() < deadline and signals.count < 2:
            time.sleep(0.05)
        print(f"Draining (at most {arguments.drain_timeout} s; once more ends it at once) ...", flush=True)
    finally:
        if gateway is not None:
            # First: what it was asked is with the server.
            gateway.stop()
        if server.was_started:
            server.stop(at_once=lambda: signals.count > 1)
        # Last: a balancer that gets no answer cuts the streams that are still under way.
        supervisor.close()
        if arguments.ready_file:
            arguments.ready_file.unlink(missing_ok=True)
        if not is_kept:
            shutil.rmtree(view.folder, ignore_errors=True)
    print("Stopped.", flush=True)
    return 0
