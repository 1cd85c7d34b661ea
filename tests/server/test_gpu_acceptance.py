"""What `make gpu-acceptance` does to a server, done to the one that is here; and what it says without a GPU."""

import subprocess
import sys

import pytest

from support import ROOT, Server
from trireme_ops import gpu_acceptance
from trireme_ops.gpu_acceptance import Outcome, exercise, report
from trireme_ops.layout import Layout


def test_a_server_is_exercised_and_reported(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_acceptance, "CONCURRENCIES", (1, 4))
    outcome = exercise(Layout(ROOT), server.grpc, seconds=0.5, asked=20)
    assert outcome.contract == "ok"
    assert outcome.right >= 19
    assert outcome.passed
    text = report(outcome, "an abacus", {"kl": 0.001, "top1": 0.99})
    assert text.startswith("## Acceptance: passed")
    assert f"right answers: {outcome.right} of 20" in text
    assert [line.split()[1] for line in text.splitlines() if line.startswith("| ")] == ["streams", "1", "4"]
    assert all(rate > 10 for _, rate, *_ in outcome.load)


def test_wrong_answers_or_a_broken_contract_fail() -> None:
    assert not Outcome("ok", 90, 100).passed
    assert not Outcome("a tensor is missing", 100, 100).passed
    assert "FAILED" in report(Outcome("no", 0, 1), "h", {})


@pytest.mark.skipif(not gpu_acceptance.missing(), reason="this machine has a GPU and NVIDIA's image")
def test_without_a_gpu_it_says_what_is_missing() -> None:
    command = [sys.executable, "-m", "trireme_ops.gpu_acceptance"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith("GPU acceptance cannot run here:\n- ")
    assert "NVIDIA GPU" in done.stderr or "docker" in done.stderr
