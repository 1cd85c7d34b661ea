"""The dashboards: what Grafana needs, and every query of theirs on a real Prometheus that scraped a real run."""

import json
import math
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

import haproxy_runs
import prometheus_runs
from account_runs import bearer, new_key, sqlite_url
from gateway_runs import Gateway, complete, server_tables, started_gateway
from prometheus_runs import RULES, Prometheus
from release_runs import null_checkout, null_server
from support import ROOT, Server, metric_of, wait_for
from trireme_client import Client, Generation
from trireme_gateway.accounts.quota import Quota
from trireme_ops.fleet.dashboards import DASHBOARDS, text_of
from trireme_ops.fleet.prometheus_config import ScrapeTargets
from trireme_ops.layout import Layout
from trireme_ops.ports import free_ports
from trireme_ops.releases.control import Address, Control
from trireme_ops.releases.release import read_release

FOLDER = ROOT / "docker" / "grafana" / "dashboards"

#: What Grafana puts in the place of its variables.
CHOSEN = {
    "$__rate_interval": "10s",
    "$__range": "60s",
    "$instance": ".*",
    "$model": ".*",
    "$tenant": ".*",
    "$release_a": "r1",
    "$release_b": "r2",
}

#: Panels that have nothing to show without a GPU.
GPU_PANELS = {"GPU", "GPU memory"}

#: Names in the rules that this run does not have: of GPUs, of the blackbox exporter, and of what must not happen in it.
NOT_IN_THIS_RUN = {
    "nv_gpu_utilization",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_memory_total_bytes",
    "probe_ssl_earliest_cert_expiry",
    "probe_success",
    "trireme_engine_restarts_total",
    "trireme_gateway_certificate_expires_seconds",
    "trireme_requests_refused_total",
}


def panels(name: str) -> list[dict[str, Any]]:
    """Those of a dashboard that show something."""
    model = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return [panel for panel in model["panels"] if panel["type"] != "row"]


def queries() -> list[tuple[str, str]]:
    """(dashboard: panel, expression as Grafana sends it) of every query."""
    found = []
    for name in DASHBOARDS:
        for panel in panels(name):
            for target in panel["targets"]:
                expression = target["expr"]
                for variable, value in CHOSEN.items():
                    expression = expression.replace(variable, value)
                found.append((f"{name}: {panel['title']}", expression))
    return found


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_committed_dashboard_is_the_rendered_one(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text(encoding="utf-8") == text_of(DASHBOARDS[name])
    assert {path.stem for path in FOLDER.iterdir()} == set(DASHBOARDS)


def test_uids_titles_and_numbers_are_unique() -> None:
    models = [json.loads(path.read_text(encoding="utf-8")) for path in FOLDER.iterdir()]
    for key in ("uid", "title"):
        assert len({model[key] for model in models}) == len(models)
    for model in models:
        numbers = [panel["id"] for panel in model["panels"]]
        assert sorted(numbers) == list(range(1, len(numbers) + 1))
        # Grafana finds a panel by its place, too: none lies upon another.
        places = [
            (x, y)
            for panel in model["panels"]
            for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
            for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
        ]
        assert len(set(places)) == len(places)
        assert max(x for x, _ in places) < 24


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_says_what_it_shows_and_leaves_the_datasource_open(name: str) -> None:
    shown = panels(name)
    assert len({panel["title"] for panel in shown}) == len(shown)
    variables = {one["name"] for one in json.loads((FOLDER / f"{name}.json").read_text())["templating"]["list"]}
    assert "datasource" in variables
    for panel in shown:
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval", "__range"}
            assert used <= variables, panel["title"]
            assert "$__interval" not in target["expr"]


def test_what_grafana_is_provisioned_with() -> None:
    folder = ROOT / "docker" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    (provider,) = yaml.safe_load((folder / "dashboards" / "trireme.yml").read_text())["providers"]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"


@dataclass(frozen=True)
class Run:
    """What was run, and Prometheus, which watched it. load_began: when the server said that it was loading r2."""

    server: Server
    gateway: Gateway
    prometheus: Prometheus
    load_began: float


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A server with r1 live and r2 on trial, HAProxy, a gateway with tenants, and traffic until the end."""
    folder = tmp_path_factory.mktemp("monitored")
    layout, url = null_checkout(folder), sqlite_url(folder)
    keys = {
        "acme": new_key(url, "acme"),
        "globex": new_key(url, "globex"),
        "initech": new_key(url, "initech", Quota(requests_per_minute=1)),
    }
    token = folder / "metrics.key"
    token.write_text(new_key(url, "operator", may_read_metrics=True), encoding="utf-8")
    (exporter,) = free_ports(1)
    with null_server(folder, layout) as (server, _):
        config = server_tables({"server-1": server}) + (
            '[[canary]]\nrelease = "r2"\npercent = 50\n'
            '[[shadow]]\nrelease = "r2"\npercent = 50\n'
            '[[price]]\nmodel = "ensemble"\ninput = 100\noutput = 200\ncached = 50\n'
        )
        control = Control(Address.parse(str(server.addresses["health"])), layout.control_key())
        proxied = [haproxy_runs.proxied("server-1", server)]
        targets = ScrapeTargets(
            triton={"server-1": server.addresses["metrics"]},
            supervisor={"server-1": server.addresses["health"]},
            haproxy={"haproxy": f"127.0.0.1:{exporter}"},
        )
        with (
            haproxy_runs.started(folder, proxied, metrics_port=exporter) as haproxy,
            started_gateway(folder / "gateway", config=config, database=url) as gateway,
            prometheus_runs.started(
                folder,
                ScrapeTargets(**{**vars(targets), "gateway": {"gateway": gateway.address}}),
                gateway_token_file=str(token),
            ) as prometheus,
        ):
            control.lock("a trial")
            try:
                load_began = load_while_watched(control, layout, server)
                with traffic(gateway, haproxy.grpc, keys):
                    yield Run(server, gateway, prometheus, load_began)
            finally:
                control.unlock()


def load_while_watched(control: Control, layout: Layout, server: Server) -> float:
    """Load r2; when the server says that the load began, asked while it goes on."""
    loading = threading.Thread(target=control.load, args=(read_release(layout, "r2"),))
    began = 0.0
    loading.start()
    while loading.is_alive():
        name = "trireme_release_act_started_timestamp_seconds"
        began = max(began, metric_of(f"{server.health}/metrics", name, act="load"))
    loading.join()
    return began


class Traffic(threading.Thread):
    """Asks all the time, in turns, of everything that the metrics count."""

    def __init__(self, gateway: Gateway, grpc: str, keys: dict[str, str]) -> None:
        super().__init__()
        self.gateway, self.grpc, self.keys = gateway, grpc, keys
        self.ended = threading.Event()

    def run(self) -> None:
        number = 0
        with Client(self.grpc, timeout_s=60) as client:
            while not self.ended.is_set():
                number += 1
                for tenant, key in self.keys.items():
                    complete(self.gateway, f"{tenant} {number}", bearer(key), stream=True, max_tokens=4)
                acme = bearer(self.keys["acme"])
                complete(self.gateway, "the same", acme, max_tokens=2, temperature=0)
                complete(self.gateway, "x", {**acme, "x-trireme-deadline-ms": "1"}, max_tokens=50)
                complete(self.gateway, "x", acme, temperature=9)
                complete(self.gateway, "x", {"authorization": "Bearer trk_none"})
                client.generate(Generation(prompt="behind HAProxy", max_tokens=2))


class traffic:  # noqa: N801
    """Traffic until the end of the context."""

    def __init__(self, gateway: Gateway, grpc: str, keys: dict[str, str]) -> None:
        self._threads = [Traffic(gateway, grpc, keys) for _ in range(2)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_error: object) -> None:
        for thread in self._threads:
            thread.ended.set()
        for thread in self._threads:
            thread.join(timeout=60)


def has_data(series: list[dict[str, Any]]) -> bool:
    return any(not math.isnan(float(value)) for one in series for _, value in one["values"])


def test_every_query_of_every_panel_returns_data(run: Run) -> None:
    waiting = {(where, expression) for where, expression in queries() if where.partition(": ")[2] not in GPU_PANELS}
    assert len(waiting) > 50
    deadline = time.monotonic() + 60
    while waiting and time.monotonic() < deadline:
        waiting = {(where, query) for where, query in waiting if not has_data(run.prometheus.query_range(query))}
        if waiting:
            time.sleep(0.5)
    assert not waiting, "\n".join(f"{where}: {query}" for where, query in sorted(waiting))


def test_panels_of_gpus_are_empty_and_no_error_without_one(run: Run) -> None:
    found = [query for where, query in queries() if where.partition(": ")[2] in GPU_PANELS]
    assert len(found) == len(GPU_PANELS)
    for query in found:
        assert run.prometheus.query_range(query) == []


def test_the_values_of_every_variable_are_there(run: Run) -> None:
    for name in DASHBOARDS:
        for variable in json.loads((FOLDER / f"{name}.json").read_text())["templating"]["list"]:
            if variable["type"] == "query":
                metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
                assert {one["metric"].get(label, "") for one in run.prometheus.query(metric)} - {""}, variable["name"]


def test_every_metric_that_a_rule_names_is_scraped(run: Run) -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in RULES.glob("*.yml"))
    expressions = [rule["expr"] for group in _groups(text) for rule in group["rules"]]
    plain = "\n".join(re.sub(r'"[^"]*"', '""', expression) for expression in expressions)
    named = set(re.findall(r"\b(?:trireme|nv|haproxy|probe)_[a-z0-9_]+\b(?![:\w])", plain)) | {"up"}
    assert len(named) > 25
    wanted = named - NOT_IN_THIS_RUN

    def missing() -> set[str]:
        return wanted - set(run.prometheus.get("label/__name__/values"))

    deadline = time.monotonic() + 30
    while missing() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not missing()
    assert named >= NOT_IN_THIS_RUN
    # Of those that this run does not have, ours are counted somewhere.
    sources = [ROOT / "runtime" / "trireme_runtime" / "metrics.py", ROOT / "gateway" / "trireme_gateway" / "metrics.py"]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    assert all(f'"{name}"' in text for name in NOT_IN_THIS_RUN if name.startswith("trireme_"))


def _groups(text: str) -> list[dict[str, Any]]:
    return [group for part in re.split(r"^groups:\n", text, flags=re.MULTILINE)[1:] for group in yaml.safe_load(part)]


def test_every_rule_is_followed_without_an_error(run: Run) -> None:
    def evaluated() -> bool:
        rules = [rule for group in run.prometheus.get("rules")["groups"] for rule in group["rules"]]
        assert not [(rule["name"], rule["lastError"]) for rule in rules if rule.get("lastError")]
        return all(rule["health"] == "ok" for rule in rules)

    wait_for(evaluated, 30, "every rule")


def test_all_targets_are_up_and_no_server_is_taken_for_lost(run: Run) -> None:
    for job in ("triton", "supervisor", "gateway", "haproxy"):
        assert run.prometheus.is_up(job), job
    lost = {"TriremeServerDown", "TriremeAllServersDown", "TriremeGatewayDown", "TriremeBackendWithoutServers"}
    assert not lost & run.prometheus.firing().keys()


def test_a_release_on_its_way_is_seen(run: Run) -> None:
    assert run.prometheus.value("trireme_release_promotion_open") == 1
    assert run.prometheus.value("trireme_release_lock_held") == 1
    assert run.prometheus.value('trireme_release_live{llm="ensemble",release="r1"}') == 1
    assert run.prometheus.value('trireme_release_act_started_timestamp_seconds{act="load"}') == 0
    # While it was being loaded; that was over before Prometheus asked again.
    assert 0 < run.load_began <= time.time()


def test_tenants_pay_for_what_they_use_and_metrics_are_kept_from_others(run: Run) -> None:
    def cost(tenant: str) -> float:
        return run.prometheus.value(f'sum(trireme_gateway_tenant_cost_total{{tenant="{tenant}",currency="USD"}})') or 0

    def tokens(kind: str) -> float:
        return run.prometheus.value(f'trireme_gateway_tenant_tokens_total{{tenant="globex",kind="{kind}"}}') or 0

    wait_for(lambda: cost("globex") > 0 and cost("acme") > cost("globex"), 30, "the cost of two tenants")
    # 100 and 200 for a million tokens; nothing of globex comes from the cache. Between two scrapes both are of one.
    assert cost("globex") == pytest.approx((100 * tokens("prompt") + 200 * tokens("answer")) / 1e6, rel=0.5)
    assert tokens("cached") == 0


def test_quantiles_of_the_rules_are_those_of_the_run(run: Run) -> None:
    (p50,) = run.prometheus.query('trireme_fleet:tpot_seconds:p50_5m{release="r1"}')
    # The null engine has a step every 10 ms.
    assert 0.005 < float(p50["value"][1]) < 0.1
