"""A real Prometheus that scrapes what a test runs."""

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service_runs import program
from support import ROOT, wait_for
from trireme_ops.fleet.prometheus_config import ScrapeTargets, render_prometheus
from trireme_ops.ports import free_ports

RULES = ROOT / "docker" / "prometheus" / "rules"


def promtool(*words: str, folder: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    """Debian's promtool. Where it is missing the test is skipped, and fails in continuous integration."""
    command = [program("promtool", "prometheus"), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@dataclass(frozen=True)
class Prometheus:
    """As it runs: HOST:PORT of its API, and its process."""

    address: str
    process: "subprocess.Popen[bytes]"
    config: Path

    def get(self, path: str, **parameters: str) -> Any:
        """What the API answers, such as `rules` and `targets`. Fails the test with Prometheus' own words."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} {parameters}: {error.read().decode()}") from error

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant vector, each with `metric` and `value`."""
        return list(self.get("query", query=expression)["result"])

    def value(self, expression: str) -> float | None:
        """Of the one series that an expression has; None where it has none."""
        found = self.query(expression)
        assert len(found) < 2, found
        return float(found[0]["value"][1]) if found else None

    def query_range(self, expression: str, seconds: float = 60, step_s: float = 1) -> list[dict[str, Any]]:
        """The series of the last `seconds`, each with `metric` and `values`."""
        now = time.time()
        window = {"start": f"{now - seconds:.3f}", "end": f"{now:.3f}", "step": f"{step_s:g}"}
        return list(self.get("query_range", query=expression, **window)["result"])

    def is_up(self, job: str, instance: str | None = None) -> bool:
        """Whether all targets of a job, or one of them, answered when they were asked last."""
        which = f'job="{job}"' + ("" if instance is None else f',instance="{instance}"')
        return self.value(f"min(up{{{which}}})") == 1

    def firing(self) -> dict[str, list[dict[str, str]]]:
        """The labels of the alerts that fire now, by alert."""
        found: dict[str, list[dict[str, str]]] = {}
        for alert in self.get("alerts")["alerts"]:
            if alert["state"] == "firing":
                found.setdefault(alert["labels"]["alertname"], []).append(alert["labels"])
        return found


@contextmanager
def started(
    folder: Path, targets: ScrapeTargets, *, interval_s: float = 1, rules: Path = RULES, **settings: Any
) -> Iterator[Prometheus]:
    """Run Prometheus with the rules of the repository; ended with the context.

    interval_s: how often it asks and follows the rules. settings: further ones of `render_prometheus`.
    """
    binary = program("prometheus", "prometheus")
    config, (port,) = folder / "prometheus.yml", free_ports(1)
    text = render_prometheus(targets, rules_glob=f"{rules}/*.yml", scrape_interval_s=interval_s, **settings)
    config.write_text(text, encoding="utf-8")
    command = [binary, f"--config.file={config}", f"--storage.tsdb.path={folder / 'prometheus-data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    address = f"127.0.0.1:{port}"
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

        def is_ready() -> bool:
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            try:
                with urllib.request.urlopen(f"http://{address}/-/ready", timeout=5) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        try:
            wait_for(is_ready, 30, "Prometheus")
            yield Prometheus(address, process, config)
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
