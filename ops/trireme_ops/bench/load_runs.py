"""Runs of the load generator for the benches."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trireme_load.launch import locust_command, run_locust
from trireme_load.scenarios import file_of

from ..errors import OperatorError


def streaming_chat(address: str, users: int, options: Mapping[str, str], out: Path) -> dict[str, Any]:
    """The summary of a run of the scenario in one process. Raises OperatorError if a request failed, or none came."""
    values = {"host": address, "out": str(out), **options}
    run_locust(locust_command(file_of("streaming-chat"), values, users, float(users), 1), quiet=True)
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    if summary["requests"]["failed"] or not summary["requests"]["succeeded"]:
        raise OperatorError(f"{address}: requests failed: {summary['errors']}")
    return summary
