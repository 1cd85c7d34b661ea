"""The configuration files of a fleet's parts, each from the fleet's plan."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import OperatorError
from ..layout import Layout
from ..releases.llm import llms
from ..releases.toml_file import read_toml
from .haproxy_config import BACKENDS, ProxiedGateway, ProxiedServer, render_haproxy
from .plan import FleetPlan, ServerPlan
from .prometheus_config import ScrapeTargets, render_prometheus

#: Debian's names of what is not Python.
PACKAGES = {name: name for name in ("haproxy", "redis-server", "prometheus", "prometheus-blackbox-exporter")}

#: How long balancers are told that a server is ending before it refuses anything: several of their checks, in s.
SHUTDOWN_DELAY_S = 3

_PROMETHEUS = Path(__file__).resolve().parents[3] / "docker" / "prometheus"

_SCRAPE_S = 2


def program(name: str) -> str:
    """The executable. Raises OperatorError with what to type where it is missing."""
    # Debian keeps servers where only root's PATH looks.
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin")
    if found is None:
        raise OperatorError(f"{name} is not installed. Type: sudo apt-get install {PACKAGES[name]}")
    return found


def write_configs(layout: Layout, plan: FleetPlan) -> None:
    """Write all of them. Raises OperatorError for settings of the operator's that cannot be."""
    (plan.folder / "haproxy.cfg").write_text(haproxy_config(plan), encoding="utf-8")
    plan.fleet_file.write_text(fleet_config(plan), encoding="utf-8")
    if plan.gateways:
        _write_gateway_config(layout, plan)
    if plan.prometheus:
        (plan.folder / "prometheus.yml").write_text(prometheus_config(plan), encoding="utf-8")
    (plan.folder / "supervisord.conf").write_text(supervisor_config(layout, plan), encoding="utf-8")


def _write_gateway_config(layout: Layout, plan: FleetPlan) -> None:
    """Once a gateway has found nothing wrong with it; what is there stays otherwise."""
    path = plan.folder / "gateway.toml"
    staging = path.with_suffix(".new")
    staging.write_text(gateway_config(layout, plan), encoding="utf-8")
    command = [sys.executable, "-m", "trireme_ops.cli", "gateway", "--check", "--config", str(staging)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        staging.unlink()
        said = done.stderr.strip().removeprefix("trireme gateway: ")
        raise OperatorError(said.replace(str(staging), plan.gateway_config or "the gateway's settings"))
    staging.rename(path)


def haproxy_config(plan: FleetPlan) -> str:
    """HAProxy's, from the template that production uses."""
    edge = plan.edge
    bind, _, grpc_port = edge.grpc.rpartition(":")
    servers = [
        ProxiedServer(one.name, _host(one.grpc), one.port("http"), one.port("grpc"), one.port("health"))
        for one in plan.servers
    ]
    try:
        return render_haproxy(
            servers,
            edge.socket,
            gateways=[ProxiedGateway(one.name, _host(one.address), _port(one.address)) for one in plan.gateways],
            bind="*" if bind == "0.0.0.0" else bind,
            grpc_port=int(grpc_port),
            http_port=_port(edge.http),
            openai_port=_port(edge.openai) if edge.openai else 9080,
            metrics_port=_port(edge.metrics),
            tls_certificate=edge.tls_certificate,
            balance=edge.balance,
            client_requests_per_10s=edge.client_requests_per_10s,
            client_streams=edge.client_streams,
            state_file=str(plan.folder / "haproxy.state"),
        )
    except ValueError as error:
        raise OperatorError(f"HAProxy's configuration: {error}") from None


def fleet_config(plan: FleetPlan) -> str:
    """For `trireme release --fleet`."""
    lines = ["max_unavailable = 1", "", "[haproxy]", f"socket = {json.dumps(plan.edge.socket)}"]
    lines.append(f"backends = {json.dumps(list(BACKENDS))}")
    for server in plan.servers:
        lines += ["", "[[server]]", f'name = "{server.name}"', f'control = "{server.health}"']
    return "\n".join(lines) + "\n"


def gateway_config(layout: Layout, plan: FleetPlan) -> str:
    """The gateways': the operator's own settings, with the fleet's servers, and what gateways share in Redis."""
    own, given = "", {}
    if plan.gateway_config:
        path = Path(plan.gateway_config)
        given = read_toml(path)
        own = path.read_text(encoding="utf-8").rstrip("\n") + "\n\n"
        for key, why in (
            ("server", "the fleet names its servers itself"),
            ("tls", "the edge has TLS: --tls-certificate"),
        ):
            if key in given:
                raise OperatorError(f"{path}: {key}: {why}; leave it out")
    lines: list[str] = []
    for server in plan.servers:
        lines += ["[[server]]", f'name = "{server.name}"', f'grpc = "{server.grpc}"', f'health = "{server.health}"', ""]
    if "model" not in given:
        lines += [line for llm in llms(layout) for line in ("[[model]]", f'id = "{llm.name}"', f'llm = "{llm.name}"')]
    if plan.redis:
        url = f'url = "redis://{plan.redis}/0"'
        if "cache" not in given:
            lines += ["", "[cache]", 'kind = "redis"', url]
        if "shared" not in given.get("quota", {}):
            lines += ["", "[quota.shared]", 'kind = "redis"', url]
    return own + "\n".join(lines) + "\n"


def prometheus_config(plan: FleetPlan) -> str:
    """Prometheus's, with the rules and alerts of docker/prometheus."""
    targets = ScrapeTargets(
        triton={one.name: one.metrics for one in plan.servers},
        supervisor={one.name: one.health for one in plan.servers},
        gateway={one.name: one.address for one in plan.gateways},
        haproxy={"haproxy": plan.edge.metrics},
        prometheus={"prometheus": plan.prometheus},
        probed=(plan.edge.grpc,) if plan.blackbox else (),
        blackbox_exporter=plan.blackbox,
    )
    token = plan.metrics_key_file or None
    return render_prometheus(
        targets, rules_glob=str(_PROMETHEUS / "rules" / "*.yml"), scrape_interval_s=_SCRAPE_S, gateway_token_file=token
    )


def supervisor_config(layout: Layout, plan: FleetPlan) -> str:
    """supervisord's: a program for each part."""
    programs = {"haproxy": _haproxy_command(plan)}
    if plan.redis:
        programs["redis"] = _redis_command(plan)
    programs |= {server.name: _server_command(plan, server) for server in plan.servers}
    programs |= {gateway.name: _gateway_command(plan, gateway.name, gateway.address) for gateway in plan.gateways}
    if plan.prometheus:
        programs["prometheus"] = _prometheus_command(plan)
    if plan.blackbox:
        config, where = _PROMETHEUS / "blackbox.yml", plan.blackbox
        options = [f"--config.file={config}", f"--web.listen-address={where}", "--log.level=warn"]
        programs["blackbox"] = [program("prometheus-blackbox-exporter"), *options]
    environment = {"TRIREME_ROOT": str(layout.root)}
    text = [
        "[supervisord]",
        f"directory={_quoted(layout.root)}",
        f"logfile={_quoted(plan.logs / 'supervisord.log')}",
        f"pidfile={_quoted(plan.folder / 'supervisord.pid')}",
        f"childlogdir={_quoted(plan.logs)}",
        "nocleanup=true",
        f"environment={_environment(environment)}",
        "",
        "[unix_http_server]",
        f"file={_quoted(plan.supervisor_socket)}",
        "chmod=0600",
        "",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
    ]
    for name, command in programs.items():
        text += [
            "",
            f"[program:{name}]",
            f"command={_command(command)}",
            "autorestart=true",
            # What ends sooner is started again after a wait that grows by a second each time, for as long as the
            # fleet is wanted; anything else at once.
            "startsecs=3",
            "startretries=1000000",
            "redirect_stderr=true",
            f"stdout_logfile={_quoted(plan.logs / f'{name}.log')}",
            "stdout_logfile_maxbytes=20MB",
            "stdout_logfile_backups=2",
            # Servers wait for balancers, for what is under way, and for Triton to unload.
            f"stopwaitsecs={plan.drain_timeout_s + SHUTDOWN_DELAY_S + 45}",
        ]
        if name == "haproxy":
            # It ends when its streams have; with SIGTERM it would cut them.
            text.append("stopsignal=USR1")
    return "\n".join(text) + "\n"


def _server_command(plan: FleetPlan, server: ServerPlan) -> list[str]:
    return [
        *(sys.executable, "-m", "trireme_ops.cli", "serve", "--name", server.name),
        *(
            word
            for endpoint in ("http", "grpc", "metrics", "health")
            for word in (f"--{endpoint}-port", str(server.port(endpoint)))
        ),
        *("--ready-file", str(plan.ready_file(server.name))),
        *("--log", str(plan.logs / f"{server.name}-triton.log")),
        *("--shutdown-delay", str(SHUTDOWN_DELAY_S), "--drain-timeout", str(plan.drain_timeout_s)),
        *(("--release", server.release) if server.release else ()),
        *(("--version-key", plan.version_key) if plan.version_key else ()),
    ]


def _gateway_command(plan: FleetPlan, name: str, address: str) -> list[str]:
    command = [sys.executable, "-m", "trireme_ops.cli", "gateway", "--config", str(plan.folder / "gateway.toml")]
    command += ["--host", _host(address), "--port", str(_port(address))]
    return [*command, "--ready-file", str(plan.ready_file(name))]


def _haproxy_command(plan: FleetPlan) -> list[str]:
    # -W: a master, which lets a new process take over the listeners when it is told to read the configuration again.
    return [program("haproxy"), "-W", "-f", str(plan.folder / "haproxy.cfg")]


def _redis_command(plan: FleetPlan) -> list[str]:
    host, _, port = plan.redis.rpartition(":")
    return [program("redis-server"), "--bind", host, "--port", port, "--save", "", "--dir", str(plan.folder)]


def _prometheus_command(plan: FleetPlan) -> list[str]:
    return [
        program("prometheus"),
        f"--config.file={plan.folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={plan.folder / 'prometheus'}",
        "--storage.tsdb.retention.time=7d",
        f"--web.listen-address={plan.prometheus}",
        "--log.level=warn",
    ]


def _command(words: Sequence[str]) -> str:
    # Should supervisord be killed, its programs end, too.
    guarded = ["setpriv", "--pdeathsig", "TERM", "--", *words] if shutil.which("setpriv") else words
    return " ".join(_word(word) for word in guarded)


def _word(word: str) -> str:
    """As supervisord's own splitting, after shell rules, takes it for one word."""
    if word and not set(word) - _PLAIN:
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./:=@+-,")


def _environment(values: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{_quoted(value)}"' for name, value in values.items())


def _quoted(value: object) -> str:
    """supervisord expands what begins with a percent sign."""
    return str(value).replace("%", "%%")


def _host(address: str) -> str:
    return address.rpartition(":")[0]


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
