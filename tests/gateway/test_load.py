"""The load generator against the gateway."""

import json
import subprocess
from pathlib import Path

import pytest

from gateway_runs import Gateway
from support import TRIREME


@pytest.mark.alone
def test_a_load_test_measures_the_gateway(gateway: Gateway, tmp_path: Path) -> None:
    options = ["--target=openai", f"--host={gateway.address}", "--users=4", "--warm-up=1s", "--duration=3s"]
    done = subprocess.run(
        [str(TRIREME), "load", *options, f"--out={tmp_path / 'run'}"], capture_output=True, text=True, timeout=120
    )
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["requests"]["succeeded"] > 10, done.stderr
    assert summary["requests"]["failed"] == 0
    assert list(summary["by_release"]) == ["unreleased"]
    assert summary["output_tokens"]["p50"] > 0
