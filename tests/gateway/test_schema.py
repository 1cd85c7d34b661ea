"""The gateway's own OpenAPI document, tried out: nothing that fits it, or does not, may make the gateway fail."""

import subprocess
import sys
from pathlib import Path

from gateway_runs import Gateway, call
from support import rounds


def answered(gateway: Gateway) -> float:
    return gateway.metric("requests_total", status="200")


def test_what_the_document_allows_never_fails(gateway: Gateway, tmp_path: Path) -> None:
    """Schemathesis sends what the document allows, and what it does not: no 5xx, and only what it names comes back."""
    before = answered(gateway)
    command = [
        *(str(Path(sys.executable).parent / "schemathesis"), "run", f"http://{gateway.address}/openapi.json"),
        *("--mode", "all", "--phases", "examples,coverage,fuzzing", "--max-examples", str(rounds(4, 200))),
        *(
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        ),
        *("--request-timeout", "30", "--generation-deterministic", "--no-color"),
        # Those that are generated are too short for any answer, and 504 is what follows.
        *("--header", "x-trireme-deadline-ms: 60000"),
        *("--exclude-path", "/metrics", "--exclude-path", "/health/ready"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=rounds(280, 1700), cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    # What it sent was not only refused.
    assert answered(gateway) > before + 10
    assert call(gateway, "/health/ready").status == 200
