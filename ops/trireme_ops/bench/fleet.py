"""`trireme bench fleet`: three servers behind HAProxy: what they carry, and what clients see when one dies or hangs."""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from trireme_load.record import Record

from ..errors import OperatorError
from ..fleet.fleet import Fleet
from ..layout import Layout
from ..processes import is_alive, session_members
from .locust_run import LocustRun
from .root import NullModel, copy_repositories, use_null_engine
from .runs import table, write_json

REPLICAS = 3

#: Of each server: so many sequences at once, each at so many tokens/s. Far below what the machine can do for all three.
SEQUENCES, STEPS_PER_S = 4, 50.0

#: Users that keep three servers full, and those that leave room for a server's share when it is gone.
_MANY, _FEW = 36, 6

_WAIT_S = 60.0
_PARTS = ("http", "grpc", "openai", "haproxy-metrics", "prometheus", "redis")


def run(layout: Layout, seconds: float) -> int:
    """Start a fleet of null engines, measure, print a table and one line of JSON."""
    with tempfile.TemporaryDirectory(prefix="trireme-bench-") as name:
        folder = Path(name)
        # Of the last server's clients, nobody is refused while they wait.
        settings = {"max_num_sequences": str(SEQUENCES), "max_queue_delay_ms": "60000"}
        root = copy_repositories(layout, folder / "root", settings)
        tokenizer = layout.root / "model_repository" / "postprocessing" / "1" / "tokenizer"
        use_null_engine(root, replace(NullModel.of_tokenizer(tokenizer), steps_per_s=STEPS_PER_S))
        with _fleet(root) as fleet:
            figures = _carried(fleet, folder, seconds)
            figures |= _killed(fleet, folder, seconds)
            figures |= _hung(fleet, folder, seconds)
    print(table(("figure", "value"), [[key, value] for key, value in figures.items()]), flush=True)
    write_json(layout, "fleet", figures)
    print(json.dumps(figures), flush=True)
    return 0


@contextmanager
def _fleet(root: Layout) -> Iterator[Fleet]:
    environment = {**os.environ, "TRIREME_ROOT": str(root.root)}
    command = [sys.executable, "-m", "trireme_ops.cli", "fleet"]
    up = [
        *command,
        "up",
        "--first-port",
        "0",
        "--replicas",
        str(REPLICAS),
        *(word for part in _PARTS for word in (f"--{part}-port", "0")),
    ]
    if subprocess.run(up, env=environment, check=False).returncode:
        raise OperatorError("the fleet did not start")
    try:
        yield Fleet.find(root, lambda _line: None)
    finally:
        subprocess.run([*command, "down"], env=environment, check=False)


def _carried(fleet: Fleet, folder: Path, seconds: float) -> dict[str, float]:
    """What three servers carry of what one does, of output tokens/s."""
    edge = fleet.plan.edge.grpc

    def tokens_per_s(name: str) -> float:
        with LocustRun(edge, "unary", _MANY, seconds, folder / name, "synthetic:16/20") as load:
            summary = load.summary()
        if summary["requests"]["failed"]:
            raise OperatorError(f"requests failed: {summary['errors']}")
        return float(summary["tokens_per_s"]["total"])

    whole = [tokens_per_s("three-a")]
    others = [server.name for server in fleet.plan.servers[1:]]
    for name in others:
        fleet.drain(name)
    alone = tokens_per_s("one")
    for name in others:
        fleet.resume(name)
    whole.append(tokens_per_s("three-b"))
    return {
        "tokens_per_s_1": round(alone, 1),
        "tokens_per_s_3": round(statistics.mean(whole), 1),
        "scale_1_to_3": round(statistics.mean(whole) / alone, 3),
    }


def _killed(fleet: Fleet, folder: Path, seconds: float) -> dict[str, float]:
    """kill -9 of a tritonserver in the middle of streams and unary calls."""
    with _load(fleet, folder / "killed", seconds) as (streaming, unary):
        victim = fleet.plan.servers[1].name
        os.kill(_triton(fleet, victim), signal.SIGKILL)
        killed = time.monotonic()
        _wait_for(lambda: _state(fleet, victim) != "UP", "HAProxy's notice")
        _wait_for(lambda: _state(fleet, victim) == "UP", "the server's return")
        recovery_s = time.monotonic() - killed
        streams, calls = streaming.records(), unary.records()
    return {
        "unary_lost": _failed(calls),
        "unary_sent": len(calls),
        "streams_cut": _failed(streams),
        "stream_error_s_max": round(max((_late_s(one) for one in streams if one.is_failed), default=0.0), 3),
        "recovery_s": round(recovery_s, 2),
    }


def _hung(fleet: Fleet, folder: Path, seconds: float) -> dict[str, float]:
    """SIGSTOP of all processes of a server, as a host that hangs."""
    victim = fleet.plan.servers[2].name
    with _load(fleet, folder / "hung", seconds) as (streaming, unary):
        halted = [fleet.processes.one(victim).pid, *session_members(_triton(fleet, victim))]
        for pid in halted:
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        try:
            _wait_for(lambda: _state(fleet, victim).startswith("DOWN"), "HAProxy's notice")
            out_s = time.monotonic() - began
        finally:
            for pid in halted:
                if is_alive(pid):
                    os.kill(pid, signal.SIGCONT)
        lost = _failed(streaming.records()) + _failed(unary.records())
    _wait_for(lambda: _state(fleet, victim) == "UP", "the server's return")
    return {"hung_out_s": round(out_s, 2), "hung_cut": lost}


@contextmanager
def _load(fleet: Fleet, folder: Path, seconds: float) -> Iterator[tuple[LocustRun, LocustRun]]:
    """Streams and unary calls, under way on every server."""
    edge = fleet.plan.edge.grpc
    with (
        LocustRun(edge, "streaming-chat", _FEW, seconds + 8, folder / "streaming", "synthetic:16/100") as streaming,
        LocustRun(edge, "unary", _FEW, seconds + 8, folder / "unary", "synthetic:16/20") as unary,
    ):
        names = [server.name for server in fleet.plan.servers]
        _wait_for(lambda: all(fleet.running(name) >= SEQUENCES - 1 for name in names), "load on every server")
        # What was sent at the very begin has brought nothing yet, and would be asked of another server.
        time.sleep(1)
        yield streaming, unary


def _triton(fleet: Fleet, server: str) -> int:
    return int(json.loads(fleet.plan.ready_file(server).read_text())["triton_pid"])


def _state(fleet: Fleet, server: str) -> str:
    return fleet.haproxy.stats("grpc")[server].status


def _failed(records: Sequence[Record]) -> int:
    return sum(record.is_failed for record in records)


def _late_s(record: Record) -> float:
    """From the last that came of a stream to its error; from its begin where nothing came."""
    return record.end_s - (record.sent_s if record.last_token_s is None else record.last_token_s)


def _wait_for(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _WAIT_S
    while True:
        with contextlib.suppress(OperatorError):
            if is_so():
                return
        if time.monotonic() > deadline:
            raise OperatorError(f"waited {_WAIT_S:g} s in vain for {what}")
        time.sleep(0.02)
