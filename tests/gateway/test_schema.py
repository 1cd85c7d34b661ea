"""The gateway's own OpenAPI document, tried out: nothing that fits it, or does not, may make the gateway fail."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway_runs import Gateway, call, server_options, started_gateway
from support import rounds, start_null_server, stop_server


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """In front of a server that answers at once."""
    folder = tmp_path_factory.mktemp("schema")
    server = start_null_server(folder, 0.0)
    try:
        with started_gateway(folder / "gateway", *server_options(server)) as running:
            yield running
    finally:
        stop_server(server)
    # Calls that are cancelled behind their last response would keep the ensemble loaded.
    assert "Exit timeout expired" not in (folder / "triton.log").read_text(errors="replace")


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
