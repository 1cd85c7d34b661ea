"""`make bench-load`: how many messages/s one process of the load generator takes.

A canned server, which no model slows down, is asked by 1, 8 and 32 users.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..layout import Layout
from .load_runs import streaming_chat
from .runs import write_json

#: Messages of a stream, and users.
MESSAGES, USERS = 200, (1, 8, 32)


def run(layout: Layout, seconds: float) -> int:
    """Measure and show; ends with one line of JSON."""
    found = []
    with canned(MESSAGES) as address, tempfile.TemporaryDirectory(prefix="trireme-bench-load-") as name:
        for users in USERS:
            found.append(measure(address, users, seconds, Path(name) / str(users)))
    write_json(layout, "load", {"runs": found})
    print(f"{'users':>5}  {'messages/s':>10}  {'CPU share':>9}  {'late p99 ms':>11}")
    for one in found:
        print(f"{one['users']:5}  {one['messages_per_s']:10,.0f}  {one['cpu_share']:9.2f}  {one['lag_p99_ms']:11.1f}")
    best = max(found, key=lambda one: float(one["messages_per_s"]))
    print(json.dumps({"messages_per_s": round(best["messages_per_s"]), "users": best["users"]}))
    return 0


@contextmanager
def canned(messages: int) -> Iterator[str]:
    """A canned server; its address."""
    command = [sys.executable, "-m", "trireme_ops.bench.canned_server", str(messages)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def measure(address: str, users: int, seconds: float, out: Path) -> dict[str, Any]:
    """What one process read. Raises OperatorError if a request failed."""
    options = {"duration": f"{seconds}s", "warm-up": "1s", "timeout": "30s", "prompts": f"synthetic:8/{MESSAGES}"}
    summary = streaming_chat(address, users, options, out)
    (generator,) = summary["generators"]
    return {
        "users": users,
        "messages_per_s": generator["messages"] / summary["measured_s"],
        "cpu_share": generator["cpu_share"],
        "lag_p99_ms": 1000 * generator["lag_p99_s"],
    }
