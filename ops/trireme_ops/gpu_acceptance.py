"""What a person with an NVIDIA GPU runs once: the reference checkpoint in FP8, served by TensorRT-LLM, and judged.

    python -m trireme_ops.gpu_acceptance

Needs the extra `build`, docker with the NVIDIA runtime, and NVIDIA's image. Prints a report in Markdown.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from trireme_client import Client

from .bench.load import Load, quantile
from .bench.runs import put_on
from .embedded import ADDRESS
from .errors import OperatorError
from .layout import Layout
from .render import IMAGE, render, serve_command, shell_line

#: Streams at once.
CONCURRENCIES = (1, 8, 32, 128)
MAX_TOKENS = 64

_PROFILE = "trtllm"
_RECIPE = "reference-fp8-trtllm"
_READY_TIMEOUT_S = 600
_GPU_FIELDS = "name,compute_cap,driver_version,memory.total"


@dataclass
class Outcome:
    """What a server did: whether NVIDIA's client ran, the share of right answers, and a row for each concurrency."""

    contract: str
    right: int
    asked: int
    #: Streams, tokens/s, TTFT p50 and p99 in ms, gap p99 in ms.
    load: list[tuple[int, float, float, float, float]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether the contract holds and the model answers as it should."""
        return self.contract == "ok" and self.right >= 0.95 * self.asked


def missing() -> list[str]:
    """What this machine lacks, a sentence each."""
    from trireme_build.tensorrt_llm_command import container_runtime, missing_for_gpu

    found = missing_for_gpu()
    if container_runtime() != "docker":
        found.append("docker is not on the PATH")
    elif subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False).returncode:
        found.append(f"the image is not here; type: docker pull {IMAGE}")
    return found


def build(layout: Layout, root: Path) -> Path:
    """Render the profile into `root` and publish the reference checkpoint in FP8 there; the version's folder."""
    rendered = render(layout, _PROFILE, root).layout
    recipe = layout.root / "build" / "recipes" / f"{_RECIPE}.toml"
    command = [sys.executable, "-m", "trireme_ops.cli", "build", str(recipe)]
    done = subprocess.run(command, env={**os.environ, "TRIREME_ROOT": str(root)}, check=False)
    if done.returncode:
        raise OperatorError(f"{recipe.name} was not built; status {done.returncode}")
    return rendered.repositories[0] / "tensorrt_llm" / "1"


@contextmanager
def container(root: Path, log: Path) -> Iterator[None]:
    """Serve `root` in NVIDIA's container on ports 8000 to 8002, until the block ends."""
    name = f"trireme-acceptance-{uuid.uuid4().hex[:8]}"
    layout = Layout(root)
    layout.control_key()
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {shell_line(serve_command(layout, name))}"], stdout=output, stderr=subprocess.STDOUT
        )
        try:
            _wait_until_ready(process, log)
            yield
        finally:
            subprocess.run(["docker", "stop", "--time", "60", name], capture_output=True, check=False)
            process.wait(timeout=90)


def _wait_until_ready(process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise OperatorError(f"the container ended with status {process.returncode}; its log: {log}")
        try:
            with urllib.request.urlopen(f"http://{ADDRESS}:8000/v2/health/ready", timeout=5):
                return
        except OSError:
            time.sleep(1)
    raise OperatorError(f"the server was not ready within {_READY_TIMEOUT_S} s; its log: {log}")


def exercise(layout: Layout, address: str, seconds: float = 10, asked: int = 125) -> Outcome:
    """Put a server to the test: NVIDIA's client, prompts of the reference tasks, load. address: HOST:PORT of gRPC."""
    from trireme_build.exact_match import read_examples
    from trireme_build.judging import spread

    script = layout.root / "tests" / "contract" / "nvidia_client.py"
    client = subprocess.run([sys.executable, str(script), address], capture_output=True, text=True, check=False)
    examples = spread(read_examples(layout.root / "build/checkpoints/trireme-reference/held_out.jsonl"), asked)
    right = 0
    with Client(address, timeout_s=120) as connection:
        for example in examples:
            answer = connection.generate(messages=[{"role": "user", "content": example.prompt}], max_tokens=352)
            right += answer.text == example.answer
    outcome = Outcome(client.stdout.strip() or client.stderr.strip()[-300:], right, len(examples))
    for concurrency in CONCURRENCIES:
        load = Load(address, "ensemble", concurrency, MAX_TOKENS, seconds, warm_up_s=seconds / 4, prompt="Go on.")
        result = put_on(load)
        outcome.load.append(
            (
                concurrency,
                result.tokens / result.seconds,
                quantile(result.ttft_ms, 0.5),
                quantile(result.ttft_ms, 0.99),
                quantile(result.gaps_ms, 0.99),
            )
        )
    return outcome


def describe_gpu() -> str:
    """The GPUs, as nvidia-smi names them."""
    command = ["nvidia-smi", f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown: {error}"


def report(outcome: Outcome, where: str, accuracy: dict[str, float]) -> str:
    """A report in Markdown, to be pasted. where: the hardware; accuracy: that of the version, by its manifest."""
    lines = [
        f"## Acceptance: {'passed' if outcome.passed else 'FAILED'}",
        "",
        f"- hardware: {where}",
        f"- image: {IMAGE}; client: Python {platform.python_version()}",
        f"- exported checkpoint: KL {accuracy.get('kl', float('nan')):.2g} nats, top-1 {accuracy.get('top1')}",
        f"- NVIDIA's client against `ensemble`: {outcome.contract}",
        f"- right answers: {outcome.right} of {outcome.asked}",
        "",
        "| streams | tokens/s | TTFT p50 ms | TTFT p99 ms | gap p99 ms |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {c} | {rate:.0f} | {p50:.1f} | {p99:.1f} | {gap:.1f} |" for c, rate, p50, p99, gap in outcome.load]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="of load for each number of streams")
    arguments = parser.parse_args()
    lacking = missing()
    if lacking:
        print("GPU acceptance cannot run here:", *(f"- {what}" for what in lacking), sep="\n", file=sys.stderr)
        return 1
    layout = Layout.find()
    layout.state.mkdir(exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=layout.state, prefix="acceptance-") as name:
            root, log = Path(name) / "root", layout.state / "gpu-acceptance.log"
            version = build(layout, root)
            manifest = json.loads((version / "manifest.json").read_text(encoding="utf-8"))
            with container(root, log):
                outcome = exercise(layout, f"{ADDRESS}:8001", arguments.seconds)
    except OperatorError as error:
        print(error, file=sys.stderr)
        return 1
    print(report(outcome, describe_gpu(), manifest["accuracy"]))
    return 0 if outcome.passed else 1


if __name__ == "__main__":
    sys.exit(main())
