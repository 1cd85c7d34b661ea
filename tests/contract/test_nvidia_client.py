"""A client that knows NVIDIA's tensor names and nothing of this project runs unchanged."""

import subprocess
import sys
from pathlib import Path

from support import Server

SCRIPT = Path(__file__).with_name("nvidia_client.py")


def test_a_client_of_the_reference_family_runs_against_ensemble(server: Server) -> None:
    assert "trireme" not in SCRIPT.read_text()
    done = subprocess.run([sys.executable, SCRIPT, server.grpc], capture_output=True, text=True, timeout=120)
    assert done.stdout == "ok\n", done.stderr
