"""The commands of docs/operations.md, one after the other, on a fleet."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fleet_runs import ANY, RunningFleet, run_fleet
from haproxy_runs import haproxy_binary
from release_runs import null_checkout
from service_runs import program
from support import ROOT

SHELL = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_commands_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    haproxy_binary()
    for name in ("redis-server", "prometheus"):
        program(name, name)
    layout = null_checkout(tmp_path_factory.mktemp("operations") / "root")
    first, *blocks = SHELL.findall((ROOT / "docs" / "operations.md").read_text(encoding="utf-8"))
    assert first.startswith("trireme fleet up --replicas 3\n")
    run_fleet(layout, "up", "--replicas", "3", "--release", "r1", *ANY)
    try:
        plan = RunningFleet(layout).plan
        script = "\n".join(["set -euo pipefail", first.partition("\n")[2], *blocks])
        for page, real in (("127.0.0.1:8080", plan.edge.openai), ("127.0.0.1:8090", plan.gateways[0].address)):
            assert page in script
            script = script.replace(page, real)
        environment = {**os.environ, "TRIREME_ROOT": str(layout.root), "TRIREME_URL": plan.edge.grpc}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        done = subprocess.run(
            ["bash", "-c", script], cwd=layout.root, env=environment, capture_output=True, text=True, timeout=280
        )
    finally:
        run_fleet(layout, "down")
    assert done.returncode == 0, done.stdout + done.stderr
    for line in (
        "3 before, 4 now.",
        "4 before, 3 now.",
        "server-2 is at rest. Back to work: trireme fleet resume server-2",
        "server-2 gets requests again.",
        "end: r2 is live on 3 server(s)",
        "HAProxy, the gateways and Prometheus have read their files again.",
    ):
        assert line in done.stdout, done.stdout
    assert not (layout.state / "fleet" / "state.json").exists()
