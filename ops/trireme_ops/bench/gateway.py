"""`make bench-gateway`: what the gateway costs, against gRPC without it and against LiteLLM's proxy.

Everything is in front of the same server with the null engine, and measured by turns.
"""

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import ports
from ..embedded import ADDRESS
from ..errors import OperatorError
from ..layout import Layout
from ..server import EmbeddedServer
from .http_load import Client, HttpLoad
from .load import Load, Result, quantile
from .root import NullModel, copy_repositories, use_null_engine
from .runs import put_on, run_module, table, write_json
from .serving import grpc_address, serving

#: Rounds of each measurement, by turns.
ROUNDS = 3

#: Tokens of an answer: streamed ones, and short ones that come whole.
STREAMED_TOKENS, SHORT_TOKENS = 256, 8

#: Who streams at once, who asks for short answers at once, and who holds a stream open.
STREAMS, ASKING, OPEN = 64, 16, 500

#: Steps/s of the engine where streams are held open.
_SLOW_STEPS_PER_S = 2.0

_SETTINGS = {
    "max_num_sequences": "512",
    "max_tokens_in_paged_kv_cache": "4194304",
    "max_queue_size": "1024",
    "max_queue_tokens": "4194304",
}

#: What the last line says.
_WANTED = (
    "ttft_added_ms_p50",
    "tokens_ratio_c64",
    "rps_over_litellm",
    "cache_hit_ms_p50",
    "kib_per_stream",
    "accounts_added_ms_p50",
    "accounts_redis_added_ms_p50",
)

#: Starts LiteLLM's proxy with a chat template at hand, which it would otherwise look for on the internet.
_START_LITELLM = """
import litellm
template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
tokenizer = {"chat_template": template, "bos_token": "", "eos_token": ""}
litellm.known_tokenizer_config["ensemble"] = {"status": "success", "tokenizer": tokenizer}
from litellm.proxy.proxy_cli import run_server
run_server()
"""

#: How long LiteLLM may take to start, in s.
_LITELLM_START_S = 90.0


def run(layout: Layout, seconds: float) -> int:
    """Measure, print a table and one line of JSON."""
    tokenizer = layout.root / "model_repository" / "postprocessing" / "1" / "tokenizer"
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="trireme-bench-") as name:
        folder = Path(name)
        fast = copy_repositories(layout, folder / "fast", _SETTINGS)
        use_null_engine(fast, NullModel.of_tokenizer(tokenizer, 0.0))
        with serving(fast) as server:
            with gateway(server, folder / "gateway.log") as ours:
                figures |= _first_token(server, ours.address, seconds)
                figures |= _streams(server, ours.address, seconds)
                figures |= _hits(ours.address, seconds)
            figures |= _accounts(server, folder / "accounts", seconds)
            figures |= _short(layout, server, folder, seconds)
        slow = copy_repositories(layout, folder / "slow", _SETTINGS)
        use_null_engine(slow, NullModel.of_tokenizer(tokenizer, _SLOW_STEPS_PER_S))
        with serving(slow) as server, gateway(server, folder / "gateway.log") as ours:
            figures |= asyncio.run(_held_open(ours))
    write_json(layout, "gateway", figures)
    print(table(("", "value"), [[key, value] for key, value in figures.items()]))
    print(json.dumps({key: _rounded(figures[key]) for key in _WANTED}), flush=True)
    return 0


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


@dataclass(frozen=True)
class Running:
    """A gateway: host:port, and its process."""

    address: str
    pid: int


@contextmanager
def gateway(server: EmbeddedServer, log: Path, *options: str) -> Iterator["Running"]:
    """A gateway in front of a server, without a line for each request."""
    ready = log.with_suffix(".ready")
    command = [sys.executable, "-m", "trireme_ops.cli", "gateway", "--port", "0", "--no-access-log"]
    # The server of a benchmark has no supervisor; Triton's own readiness is asked for.
    command += ["--server", grpc_address(server), "--ready-file", str(ready)]
    # The latter of two is the one that counts.
    command += ["--database", f"sqlite:///{log.with_suffix('.db')}", *options]
    with log.open("ab") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            _wait(lambda: ready.exists(), process, log, 30)
            yield Running(str(json.loads(ready.read_text())["http"]), process.pid)
        finally:
            process.terminate()
            process.wait(timeout=60)


def _wait(condition: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise OperatorError(f"it did not start:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.1)


def ask(load: HttpLoad) -> Result:
    """Put `load` on whatever serves at its address. Raises OperatorError where it fails."""
    return run_module(["trireme_ops.bench.http_load"], load)


def _by_turns(measurements: Sequence[Callable[[], Result]]) -> list[list[Result]]:
    """The results of each, in rounds."""
    rounds = [[measure() for measure in measurements] for _ in range(ROUNDS)]
    return [list(results) for results in zip(*rounds, strict=True)]


def _middle(values: Sequence[float]) -> float:
    return statistics.median(values)


def _first_token(server: EmbeddedServer, address: str, seconds: float) -> dict[str, float]:
    bare = Load(grpc_address(server), "ensemble", 1, SHORT_TOKENS, seconds)
    through = HttpLoad(address, 1, SHORT_TOKENS, seconds, True, body={"model": "ensemble", "ignore_eos": True})
    grpc, http_results = _by_turns([lambda: put_on(bare), lambda: ask(through)])
    bare_ms, through_ms = ([quantile(one.ttft_ms, 0.5) for one in results] for results in (grpc, http_results))
    added = [after - before for before, after in zip(bare_ms, through_ms, strict=True)]
    return {
        "grpc_ttft_ms_p50": _middle(bare_ms),
        "ttft_ms_p50": _middle(through_ms),
        "ttft_added_ms_p50": _middle(added),
    }


def _streams(server: EmbeddedServer, address: str, seconds: float) -> dict[str, float]:
    bare = Load(grpc_address(server), "ensemble", STREAMS, STREAMED_TOKENS, seconds)
    through = HttpLoad(address, STREAMS, STREAMED_TOKENS, seconds, True, body={"model": "ensemble", "ignore_eos": True})
    grpc, http_results = _by_turns([lambda: put_on(bare), lambda: ask(through)])
    ratios = [after.tokens_per_s / before.tokens_per_s for before, after in zip(grpc, http_results, strict=True)]
    return {
        "grpc_tokens_per_s_c64": _middle([one.tokens_per_s for one in grpc]),
        "tokens_per_s_c64": _middle([one.tokens_per_s for one in http_results]),
        "tokens_ratio_c64": _middle(ratios),
    }


def _hits(address: str, seconds: float) -> dict[str, float]:
    body = {"model": "ensemble", "temperature": 0}
    load = HttpLoad(address, 1, SHORT_TOKENS, seconds, False, same_prompt=True, body=body)
    found = [ask(load) for _ in range(ROUNDS)]
    return {
        "cache_hit_ms_p50": _middle([quantile(one.ttft_ms, 0.5) for one in found]),
        "cache_hits_per_s": _middle([one.requests / one.seconds for one in found]),
    }


#: What a key may have in the measurement: everything is counted, and nothing refused.
_QUOTA = ("--requests-per-minute", "--tokens-per-minute", "--max-concurrent", "--monthly-budget")
_PLENTY = "900000000"

_PRICE = '[[price]]\nmodel = "ensemble"\ninput = 0.1\noutput = 0.4\n'


def _accounts(server: EmbeddedServer, folder: Path, seconds: float) -> dict[str, float | None]:
    """What keys, quotas and the ledger add together: counted in the gateway, and in Redis where that is installed."""
    folder.mkdir()
    (redis_port,) = ports.free_ports(1)
    shared = f'[quota.shared]\nkind = "redis"\nurl = "redis://{ADDRESS}:{redis_port}/0"\n'
    configs = {"without": "[ledger]\nenabled = false\n", "with": _PRICE}
    added: dict[str, float | None] = {"accounts_added_ms_p50": None, "accounts_redis_added_ms_p50": None}
    with contextlib.ExitStack() as stack:
        if stack.enter_context(_redis(redis_port, folder)):
            configs["redis"] = _PRICE + shared
        loads = {}
        for name, config in configs.items():
            path, database = folder / f"{name}.toml", f"sqlite:///{folder / name}.db"
            path.write_text(config, encoding="utf-8")
            key = "" if name == "without" else _new_key(database)
            options = ("--config", str(path), "--cache", "none", "--database", database)
            ours = stack.enter_context(gateway(server, folder / f"{name}.log", *options))
            body = {"model": "ensemble", "ignore_eos": True}
            loads[name] = HttpLoad(ours.address, 1, SHORT_TOKENS, seconds, False, body=body, key=key)
        p50 = asyncio.run(_by_request(loads, ROUNDS * seconds))
    for name, figure in (("with", "accounts_added_ms_p50"), ("redis", "accounts_redis_added_ms_p50")):
        if name in p50:
            added[figure] = p50[name] - p50["without"]
    return added


async def _by_request(loads: Mapping[str, HttpLoad], seconds: float) -> dict[str, float]:
    """The median time of an answer in ms, each asked one request by turns: what they differ by is less than what the
    machine does from one second to the next."""
    clients = {name: Client(load) for name, load in loads.items()}
    times: dict[str, list[float]] = {name: [] for name in loads}
    for client in clients.values():
        await client.connect()
    ends = time.monotonic() + seconds * len(loads)
    number = 0
    while time.monotonic() < ends:
        number += 1
        for name, client in clients.items():
            began = time.perf_counter()
            client.send(number)
            await client.whole(await client.head())
            times[name].append(1000 * (time.perf_counter() - began))
    for client in clients.values():
        client.close()
    # The first ones warm up.
    return {name: quantile(found[len(found) // 10 :], 0.5) for name, found in times.items()}


def _new_key(database: str) -> str:
    """A key whose requests, tokens, answers at once and cost are counted."""
    command = [sys.executable, "-m", "trireme_ops.cli", "keys", "create", "--tenant", "bench", "--database", database]
    command += [word for option in _QUOTA for word in (option, _PLENTY)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def _redis(port: int, folder: Path) -> Iterator[bool]:
    """Redis on this port; False where it is not installed."""
    program = shutil.which("redis-server")
    if program is None:
        print("redis-server is not installed; quotas in Redis are left out", file=sys.stderr)
        yield False
        return
    command = [program, "--port", str(port), "--bind", ADDRESS, "--save", "", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield True
        finally:
            process.terminate()


def _short(layout: Layout, server: EmbeddedServer, folder: Path, seconds: float) -> dict[str, float | None]:
    """Short answers, through the gateway and through LiteLLM's proxy."""
    load = HttpLoad("", ASKING, SHORT_TOKENS, seconds, False, body={"model": "ensemble"})
    bare = Load(grpc_address(server), "ensemble", ASKING, SHORT_TOKENS, seconds, stream=False)
    found: dict[str, list[float]] = {"grpc": [], "gateway": [], "litellm": []}
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(litellm(layout, server, folder))
        ours = stack.enter_context(gateway(server, folder / "gateway.log", "--cache", "none"))
        for _ in range(ROUNDS):
            result = put_on(bare)
            found["grpc"].append(result.requests / result.seconds)
            for name, address in (("gateway", ours.address), ("litellm", other)):
                if address is not None:
                    result = ask(replace(load, address=address))
                    found[name].append(result.requests / result.seconds)
    figures: dict[str, float | None] = {
        "grpc_rps": _middle(found["grpc"]),
        "rps": _middle(found["gateway"]),
        "litellm_rps": None,
        "rps_over_litellm": None,
    }
    if found["litellm"]:
        ratios = [mine / theirs for mine, theirs in zip(found["gateway"], found["litellm"], strict=True)]
        figures |= {"litellm_rps": _middle(found["litellm"]), "rps_over_litellm": _middle(ratios)}
    return figures


@contextmanager
def litellm(layout: Layout, server: EmbeddedServer, folder: Path) -> Iterator[str | None]:
    """LiteLLM's proxy, one worker, in front of a server; None where it is not installed."""
    python = layout.root / ".venv-litellm" / "bin" / "python"
    if not (python.parent / "litellm").is_file():
        print("LiteLLM is not installed (make setup-litellm); it is left out", file=sys.stderr)
        yield None
        return
    (port,) = ports.free_ports(1)
    config, log = folder / "litellm.yaml", folder / "litellm.log"
    base = f"http://{ADDRESS}:{server.ports.http}/v2/models/ensemble/generate"
    model = {"model_name": "ensemble", "litellm_params": {"model": "triton/ensemble", "api_base": base}}
    # YAML takes JSON.
    config.write_text(json.dumps({"model_list": [model]}))
    command = [
        str(python),
        "-c",
        _START_LITELLM,
        "--config",
        str(config),
        "--host",
        ADDRESS,
        "--port",
        str(port),
        "--num_workers",
        "1",
    ]
    environment = {
        **os.environ,
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        # Neither checks a key here.
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        "NO_PROXY": ADDRESS,
    }
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=folder) as process,
    ):
        try:
            _wait(lambda: _answers(port), process, log, _LITELLM_START_S)
            yield f"{ADDRESS}:{port}"
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(ADDRESS, port, timeout=2)
    try:
        connection.request("GET", "/health/liveliness")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


async def _held_open(ours: Running) -> dict[str, float]:
    """Streams that are open at once, and what each of them takes of the gateway's memory."""
    body = {"model": "ensemble", "ignore_eos": True}
    load = HttpLoad(ours.address, OPEN, 256, 0, True, body=body)
    before = _own_bytes(ours.pid)
    clients = [Client(load) for _ in range(OPEN)]
    try:
        for number, client in enumerate(clients):
            await client.connect()
            client.send(number)
        for client in clients:
            await client.head()
            await client.some()
        return {"streams_open": len(clients), "kib_per_stream": (_own_bytes(ours.pid) - before) / len(clients) / 1024}
    finally:
        for client in clients:
            client.close()


def _own_bytes(pid: int) -> int:
    """The memory of a process that is its own."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon:"))
