"""The rules: promtool's own tests of them, and that none is without a test, a reason and something to do."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from prometheus_runs import RULES, promtool
from support import ROOT

TESTS = sorted((RULES.parent / "tests").glob("*.yml"))


def rules(name: str) -> list[dict[str, Any]]:
    """Those of a file."""
    return [
        rule
        for group in yaml.safe_load((RULES / name).read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
    ]


def cases() -> list[dict[str, Any]]:
    """Of all of promtool's tests."""
    return [test for path in TESTS for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]]


def test_promtool_takes_the_rules() -> None:
    done = promtool("check", "rules", *map(str, sorted(RULES.glob("*.yml"))))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_what_the_rules_say(path: Path) -> None:
    done = promtool("test", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    tested = [test for case in cases() for test in case.get("alert_rule_test", [])]
    assert all("exp_alerts" in test for test in tested)
    for alert in rules("alerts.yml"):
        outcomes = {bool(test["exp_alerts"]) for test in tested if test["alertname"] == alert["alert"]}
        assert outcomes == {True, False}, alert["alert"]


def test_every_recording_rule_has_a_case_in_which_it_has_a_value() -> None:
    tested = {test["expr"] for case in cases() for test in case.get("promql_expr_test", []) if test.get("exp_samples")}
    # Shares are compared within 1e-9: Prometheus adds them up in any order.
    names = {re.sub(r"^abs\((\S+) - [0-9.e-]+\) < bool 1e-9$", r"\1", expression) for expression in tested}
    assert {rule["record"] for rule in rules("recording.yml")} == names


def test_names_of_recording_rules_are_level_metric_operations() -> None:
    names = Counter(rule["record"] for rule in rules("recording.yml"))
    assert max(names.values()) == 1
    for name in names:
        assert re.fullmatch(r"trireme(_fleet|_gateway|_slo)?:[a-z_]+:[a-z0-9_]+", name), name


def test_every_alert_says_how_bad_it_is_what_is_wrong_and_what_to_do() -> None:
    assert max(Counter(alert["alert"] for alert in rules("alerts.yml")).values()) == 1
    for alert in rules("alerts.yml"):
        assert alert["labels"].keys() == {"severity"}
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert alert["annotations"].keys() == {"summary", "description", "runbook"}
        assert re.fullmatch(r"docs/operations\.md#[a-z-]+", alert["annotations"]["runbook"])


def test_every_run_book_has_the_section_that_an_alert_names() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", page, flags=re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for alert in rules("alerts.yml"):
        assert alert["annotations"]["runbook"].partition("#")[2] in anchors, alert["alert"]


def test_the_page_names_every_rule_and_every_alert() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    for alert in rules("alerts.yml"):
        row = next((line for line in page.splitlines() if line.startswith(f"| `{alert['alert']}`")), None)
        assert row is not None, alert["alert"]
        assert alert["annotations"]["runbook"].removeprefix("docs/") in row
        assert f"| {alert['labels']['severity']} |" in row
    # A quantile of three, and a window of five, stand for all of them.
    for rule in rules("recording.yml"):
        name = re.sub(r":p(50|95|99)_5m$", ":pNN_5m", rule["record"])
        name = re.sub(r"^(trireme_slo:.*:ratio_rate)(5m|30m|1h|6h|3d)$", r"\1W", name)
        assert f"`{name}`" in page, name
