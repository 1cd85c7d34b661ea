"""`make soak-releases`: releases put live and taken back, again and again, under the eyes of clients who know better.

Two releases of the reference LLM with different tokenizers: an answer that came from both would be garbage. Half of the
load that saturates the server is on it all the time.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import OperatorError
from ..layout import Layout
from ..processes import SHM, session_members
from ..releases.control import Address, Control
from ..releases.fleet import Fleet
from ..releases.promote import Options, promote
from ..releases.release import create, propose, read_release
from ..releases.rollback import rollback
from ..releases.smoke import default_smoke
from .asking import STREAMED, UNARY, Record, asking, saturating_pace_s
from .questions import Questions
from .root import copy_repositories
from .runs import write_json

#: Promotes and rollbacks of the long form.
SWAPS = 100

#: How long nothing is done between two swaps, for the figures to compare with; and clients of each kind.
_REST_S = 3.0
CLIENTS = 16
_SATURATING_S = 8.0

#: What a process holds, by the lines of /proc/PID/smaps_rollup.
_HELD = ("Pss_Anon:", "Pss_Shmem:")

#: The first ids of the reference tokenizer are its special tokens.
_SPECIAL_IDS = 6
_CONTEXT = 2048


@dataclass(frozen=True)
class Soak:
    """What was seen. rss: of the whole server, in bytes, after the first swap and after the last."""

    swaps: int
    requests: int
    failed: int
    mixed: int
    ttft_p99_before_s: float
    ttft_p99_during_s: float
    swap_s: list[float]
    rss: tuple[int, int]
    engine_loads: int
    shm_files: tuple[int, int]
    examples: list[str]

    @property
    def line(self) -> dict[str, float | None]:
        """The line of JSON that the run ends with."""
        return {
            "swaps": self.swaps,
            "requests": self.requests,
            "failed": self.failed,
            "mixed": self.mixed,
            # None where there were no clients: NaN is no JSON.
            "ttft_p99_ratio": round(ratio, 3)
            if (ratio := self.ttft_p99_during_s / self.ttft_p99_before_s) > 0
            else None,
            "rss_ratio": round(self.rss[1] / self.rss[0], 4),
            "engine_loads_per_swap": round(self.engine_loads / self.swaps, 3),
            "shm_files_added": self.shm_files[1] - self.shm_files[0],
            "swap_s_p50": round(sorted(self.swap_s)[len(self.swap_s) // 2], 2),
        }


def run(layout: Layout, swaps: int = SWAPS, clients: int = CLIENTS) -> int:
    """Swap, print what was seen and one line of JSON; 1 if a request failed or an answer was mixed.

    clients: of each kind; without any, memory and what is left behind is all that is seen, in a third of the time.
    """
    with tempfile.TemporaryDirectory(prefix="trireme-soak-") as name:
        print("Making a second release, whose tokenizer is another one ...", flush=True)
        root = two_releases(layout, Path(name) / "root")
        bar = partial(tqdm, total=swaps, unit="swap", disable=not sys.stderr.isatty())
        seen = soak(root, swaps, bar, clients=clients)
    write_json(layout, "releases", asdict(seen))
    for example in seen.examples:
        print(f"  {example}")
    print(
        f"{seen.requests} requests during {swaps} swaps: {seen.failed} failed, {seen.mixed} mixed; p99 TTFT "
        f"{1000 * seen.ttft_p99_before_s:.0f} ms before, {1000 * seen.ttft_p99_during_s:.0f} ms during a swap"
    )
    print(json.dumps(seen.line), flush=True)
    return int(seen.failed > 0 or seen.mixed > 0)


def two_releases(layout: Layout, target: Path) -> Layout:
    """A copy of the checkout with the releases r1, as committed, and r2, which is written down in other ids."""
    from trireme_build.engine_folder import ensure_engine, write_engine
    from trireme_build.permuted_checkpoint import permute_vocabulary
    from trireme_build.publish import Candidate, publish
    from trireme_build.publish_tokenizer import publish_tokenizer

    copied = copy_repositories(layout, target, {})
    checkpoint = layout.root / "build" / "checkpoints" / "trireme-reference"
    shutil.copytree(checkpoint, copied.root / "build" / "checkpoints" / checkpoint.name)
    shutil.copytree(layout.root / "releases" / "smoke", copied.root / "releases" / "smoke")
    ensure_engine(copied.repositories[0] / "tensorrt_llm" / "1", copied.root)
    other, engine = target.parent / "permuted", target.parent / "engine"
    permute_vocabulary(checkpoint, other, _SPECIAL_IDS)
    engine.mkdir()
    write_engine(other, engine, "f32")
    smoke = default_smoke(copied, "ensemble")
    create(copied, propose(copied, "r1", smoke=smoke))
    for model in ("preprocessing", "postprocessing"):
        publish_tokenizer(copied.root, model, other, _CONTEXT)
    origin = {"recipe": "permuted", "engine": "openvino", "build": {"digest": "permuted"}}
    publish(Candidate(copied.root, "tensorrt_llm", "openvino", engine, other, _CONTEXT, origin, with_tokenizer=True))
    create(copied, propose(copied, "r2", smoke=smoke))
    return copied


@contextmanager
def served(layout: Layout, release: str) -> Iterator[dict[str, Any]]:
    """A supervised server with a release live, as `trireme serve` starts it; its ready file."""
    ready = layout.root / "ready.json"
    command = [sys.executable, "-m", "trireme_ops.cli", "serve", "--release", release, "--name", "soak"]
    command += [f"--{port}-port=0" for port in ("http", "grpc", "metrics", "health")]
    command += ["--ready-file", str(ready), "--log", str(layout.root / "triton.log")]
    environment = {**os.environ, "TRIREME_ROOT": str(layout.root)}
    with (layout.root / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 180
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise OperatorError(f"the server did not start:\n{(layout.root / 'serve.log').read_text()[-2000:]}")
            time.sleep(0.1)
        yield json.loads(ready.read_text())
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=90)


def soak(layout: Layout, swaps: int, progress: Any, options: Options | None = None, clients: int = CLIENTS) -> Soak:
    """Promote r2 and go back, in turns, `swaps` in all."""
    with served(layout, "r1") as ready:
        os.environ["TRIREME_ROOT"] = str(layout.root)
        questions = Questions(ready["grpc"], STREAMED, UNARY, clients, clients)
        paced = replace(questions, pace_s=2 * saturating_pace_s(questions, _SATURATING_S)) if clients else questions
        return _swap(layout, ready, swaps, paced, progress, options or Options(hold_s=1.0))


def _swap(
    layout: Layout, ready: dict[str, Any], swaps: int, questions: Questions, progress: Any, options: Options
) -> Soak:
    fleet = Fleet.of_one(ready["health"])
    control = Control(Address.parse(ready["health"]), layout.control_key())
    second = read_release(layout, "r2")
    log = layout.root / "triton.log"
    rests: list[tuple[float, float]] = []
    during: list[tuple[float, float]] = []
    rss: list[int] = []
    shm: list[int] = []
    with asking(questions) as record, progress() as bar:
        rests.append(_rest(2 * _REST_S))
        for number in range(swaps):
            began = time.monotonic()
            outcome = promote(fleet, second, options) if number % 2 == 0 else rollback(fleet, options=options)
            during.append((began, time.monotonic()))
            live = control.status()["llms"]["ensemble"]["live"]
            if live != ("r2" if number % 2 == 0 else "r1"):
                raise OperatorError(f"swap {number + 1} ended with {live} live: {outcome.why}")
            rests.append(_rest(_REST_S))
            rss.append(_resident(ready["triton_pid"]))
            shm.append(sum(1 for path in SHM.iterdir() if path.name.startswith(f"trireme_{ready['pid']}_")))
            bar.update()
    loads = log.read_text(errors="replace").count("successfully loaded 'tensorrt_llm@")
    return _seen(record, swaps, rests, during, rss, loads - 1, shm)


def _seen(
    record: Record,
    swaps: int,
    rests: list[tuple[float, float]],
    during: list[tuple[float, float]],
    rss: list[int],
    loads: int,
    shm: list[int],
) -> Soak:
    examples = [f"{one.kind}: {one.error or one.wrong!r}" for one in (*record.failed, *record.mixed)][:5]
    return Soak(
        swaps=swaps,
        requests=len(record.asked),
        failed=len(record.failed),
        mixed=len(record.mixed),
        ttft_p99_before_s=record.ttft_p99_s(rests),
        ttft_p99_during_s=record.ttft_p99_s(during),
        swap_s=[end - begin for begin, end in during],
        # Of one release with the same one: their sizes may differ.
        rss=(rss[0], rss[-1 if swaps % 2 else -2] if swaps > 1 else rss[0]),
        engine_loads=loads,
        shm_files=(shm[0], shm[-1]),
        examples=examples,
    )


def _rest(seconds: float) -> tuple[float, float]:
    began = time.monotonic()
    time.sleep(seconds)
    return began, time.monotonic()


def _resident(session: int) -> int:
    """What all processes of the server hold, what they share counted once, in bytes.

    Pages of files are left out: they are a cache, and are divided among all servers that run on the machine.
    """
    total = 0
    for pid in session_members(session):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith(_HELD))
    return total
