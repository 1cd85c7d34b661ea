"""Prometheus' configuration for a fleet, from docker/prometheus/prometheus.yml.in.

python -m trireme_ops.fleet.prometheus_config > docker/prometheus/prometheus.yml    the committed one, for compose
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

TEMPLATE = Path(__file__).resolve().parents[3] / "docker" / "prometheus" / "prometheus.yml.in"

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_ADDRESS = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?:(?P<port>[0-9]{1,5})")
#: What a path may hold; * and ? for the rules' files alone.
_PATH = re.compile(r"[A-Za-z0-9_./@+ -]+")
_GLOB = re.compile(r"[A-Za-z0-9_./@+ *?-]+")


@dataclass(frozen=True)
class ScrapeTargets:
    """What is asked for its metrics, by job: the name that becomes the label `instance` -> HOST:PORT.

    triton: tritonservers' metrics ports. supervisor: the health ports of `trireme serve`. haproxy: its exporter.
    probed: HOST:PORT of endpoints whose certificates `blackbox_exporter`, itself a HOST:PORT, looks at.
    """

    triton: Mapping[str, str] = field(default_factory=dict)
    supervisor: Mapping[str, str] = field(default_factory=dict)
    gateway: Mapping[str, str] = field(default_factory=dict)
    haproxy: Mapping[str, str] = field(default_factory=dict)
    prometheus: Mapping[str, str] = field(default_factory=dict)
    probed: tuple[str, ...] = ()
    blackbox_exporter: str = ""

    @property
    def by_job(self) -> dict[str, Mapping[str, str]]:
        """Those jobs that have targets and are asked themselves."""
        names = ("triton", "supervisor", "gateway", "haproxy", "prometheus")
        return {name: targets for name in names if (targets := getattr(self, name))}


#: In compose, where each service is a host; see compose.yaml.
COMPOSE = ScrapeTargets(
    triton={name: f"{name}:8002" for name in ("server-1", "server-2")},
    supervisor={name: f"{name}:8003" for name in ("server-1", "server-2")},
    gateway={"gateway": "gateway:8080"},
    haproxy={"haproxy": "haproxy:8405"},
    prometheus={"prometheus": "127.0.0.1:9090"},
    probed=("haproxy:8443",),
    blackbox_exporter="blackbox:9115",
)


def render_prometheus(
    targets: ScrapeTargets,
    *,
    rules_glob: str,
    scrape_interval_s: float = 5,
    evaluation_interval_s: float | None = None,
    gateway_token_file: str | None = None,
    gateway_ca_file: str | None = None,
) -> str:
    """The text of a configuration that asks all `targets`.

    rules_glob: of the rules' files. evaluation_interval_s: how often rules are followed; default: as often as is asked.
    gateway_token_file: a key for the gateway's metrics. gateway_ca_file: who signed its certificate; it is asked over
    TLS then. Raises ValueError naming key and value.
    """
    evaluation_interval_s = scrape_interval_s if evaluation_interval_s is None else evaluation_interval_s
    if not targets.by_job:
        raise ValueError("targets is empty; Prometheus needs one at least")
    for job, named in targets.by_job.items():
        for name, address in named.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"{job}: {name!r} is no name: letters, digits, '_', '.' and '-'")
            _check_address(f"{job}: {name}", address)
    for address in targets.probed:
        _check_address("probed", address)
    if targets.probed or targets.blackbox_exporter:
        _check_address("blackbox_exporter", targets.blackbox_exporter)
    _check_path("rules_glob", rules_glob, _GLOB)
    for key, path in (("gateway_token_file", gateway_token_file), ("gateway_ca_file", gateway_ca_file)):
        if path is not None:
            _check_path(key, path, _PATH)
    template = jinja2.Template(
        TEMPLATE.read_text(encoding="utf-8"), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    text: str = template.render(
        scrape_interval=_duration("scrape_interval_s", scrape_interval_s),
        evaluation_interval=_duration("evaluation_interval_s", evaluation_interval_s),
        rules_glob=rules_glob,
        jobs=list(targets.by_job),
        targets={job: list(named.items()) for job, named in targets.by_job.items()},
        gateway_token_file=gateway_token_file,
        gateway_ca_file=gateway_ca_file,
        probed=list(targets.probed),
        blackbox_exporter=targets.blackbox_exporter,
    )
    return text


def _check_address(key: str, address: str) -> None:
    found = _ADDRESS.fullmatch(address)
    if found is None or not 1 <= int(found["port"]) <= 65535:
        raise ValueError(f"{key} is {address!r}; HOST:PORT is needed, a name or an IPv4 address")


def _check_path(key: str, path: str, allowed: "re.Pattern[str]") -> None:
    if not allowed.fullmatch(path):
        raise ValueError(f"{key} is {path!r}; allowed are letters, digits, blanks and ./_-@+")


def _duration(key: str, seconds: float) -> str:
    """As Prometheus writes it."""
    if not 0.1 <= seconds <= 3600:
        raise ValueError(f"{key} is {seconds:g}; allowed are 0.1 to 3600")
    milliseconds = round(1000 * seconds)
    return f"{milliseconds}ms" if milliseconds % 1000 else f"{milliseconds // 1000}s"


if __name__ == "__main__":
    rules = "/etc/prometheus/rules/*.yml"
    print(render_prometheus(COMPOSE, rules_glob=rules, gateway_token_file="/run/secrets/metrics_key"), end="")
