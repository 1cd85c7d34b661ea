"""Prometheus' configuration: the committed one is the rendered one, promtool takes it, and bad values are named."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from prometheus_runs import RULES, promtool
from support import ROOT
from trireme_ops.fleet.prometheus_config import COMPOSE, ScrapeTargets, render_prometheus

FOLDER = ROOT / "docker" / "prometheus"
SERVER = ScrapeTargets(triton={"server-1": "127.0.0.1:8002"}, supervisor={"server-1": "127.0.0.1:8003"})


def test_the_committed_configuration_is_what_is_rendered_for_compose() -> None:
    rendered = render_prometheus(
        COMPOSE, rules_glob="/etc/prometheus/rules/*.yml", gateway_token_file="/run/secrets/metrics_key"
    )
    assert (FOLDER / "prometheus.yml").read_text(encoding="utf-8") == rendered


@pytest.mark.parametrize(
    "settings",
    [
        {"targets": COMPOSE, "gateway_token_file": "metrics.key"},
        {"targets": SERVER, "scrape_interval_s": 0.5},
        {"targets": ScrapeTargets(gateway={"gateway": "localhost:8080"}), "gateway_ca_file": "ca.pem"},
    ],
)
def test_promtool_takes_it(tmp_path: Path, settings: dict[str, Any]) -> None:
    text = render_prometheus(rules_glob=f"{RULES}/*.yml", **settings)
    (tmp_path / "prometheus.yml").write_text(text, encoding="utf-8")
    for name in ("metrics.key", "ca.pem"):
        (tmp_path / name).write_text("", encoding="utf-8")
    done = promtool("check", "config", str(tmp_path / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_jobs_have_the_names_of_their_servers_as_instances() -> None:
    config = yaml.safe_load(render_prometheus(COMPOSE, rules_glob="rules/*.yml", scrape_interval_s=0.25))
    assert config["global"] == {"scrape_interval": "250ms", "evaluation_interval": "250ms"}
    jobs = {job["job_name"]: job["static_configs"] for job in config["scrape_configs"]}
    assert list(jobs) == ["triton", "supervisor", "gateway", "haproxy", "prometheus", "blackbox"]
    assert [one["labels"]["instance"] for one in jobs["triton"]] == ["server-1", "server-2"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"targets": ScrapeTargets()}, "targets is empty"),
        ({"targets": ScrapeTargets(triton={"a b": "h:1"})}, "triton: 'a b' is no name"),
        ({"targets": ScrapeTargets(gateway={"g": "h"})}, "gateway: g is 'h'"),
        ({"targets": ScrapeTargets(gateway={"g": "h:65536"})}, "gateway: g is 'h:65536'"),
        ({"targets": ScrapeTargets(gateway={"g": 'h"]:1'})}, "HOST:PORT is needed"),
        ({"targets": ScrapeTargets(gateway={"g": "h:1"}, probed=("h:443",))}, "blackbox_exporter is ''"),
        ({"scrape_interval_s": 0}, "scrape_interval_s is 0; allowed are 0.1 to 3600"),
        ({"evaluation_interval_s": 1e6}, "evaluation_interval_s is 1e"),
        ({"rules_glob": "a\nb"}, "rules_glob is 'a\\nb'"),
        ({"gateway_token_file": '"'}, "gateway_token_file is '\"'"),
        ({"gateway_ca_file": "*"}, "gateway_ca_file is '*'"),
    ],
)
def test_a_bad_value_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        render_prometheus(**{"targets": SERVER, "rules_glob": "rules/*.yml", **change})
    assert said in str(caught.value)
