"""One measurement each: the load on a server, or on the engine alone; and how results are shown."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from trireme_runtime.engines.base import EngineSettings

from ..errors import OperatorError
from ..layout import Layout
from ..server import EmbeddedServer
from .load import Load, Result, quantile
from .serving import cpu_s, grpc_address


@dataclass(frozen=True)
class Measured:
    """A result, and the processor time that each part of the server used for it, in s."""

    result: Result
    server_cpu_s: dict[str, float]

    @property
    def cpu_s_per_million_tokens(self) -> float:
        """Of all processes together, the load generator among them."""
        used = sum(self.server_cpu_s.values()) + self.result.generator_cpu_s
        return 1e6 * used / self.result.tokens if self.result.tokens else float("nan")

    @property
    def cpu_us_per_message(self) -> float:
        """Of everything but the engine."""
        used = sum(value for name, value in self.server_cpu_s.items() if not name.endswith("_child"))
        messages = max(1, self.result.messages)
        return 1e6 * (used + self.result.generator_cpu_s) / messages


def measure(server: EmbeddedServer, load: Load) -> Measured:
    """Put `load` on a server; its address need not be filled in. Raises OperatorError where it fails."""
    before = cpu_s(server)
    result = put_on(replace(load, address=grpc_address(server)))
    after = cpu_s(server)
    # Warming up is a part of what the processes did.
    share = result.seconds / (result.seconds + load.warm_up_s)
    return Measured(result, {name: share * (after[name] - before.get(name, 0.0)) for name in after})


def put_on(load: Load) -> Result:
    """Put `load` on whatever serves at its address. Raises OperatorError where it fails."""
    return run_module(["trireme_ops.bench.load"], load)


def measure_engine(name: str, folder: Path, settings: EngineSettings, tokenizer: Path, load: Load) -> Result:
    """Put `load` on the engine alone, in a process of its own."""
    arguments = [name, str(folder), json.dumps(asdict(settings)), str(tokenizer)]
    return run_module(["trireme_ops.bench.direct", *arguments], load)


def run_module(module: list[str], load: Any) -> Result:
    """Put a load on by one of the modules of this package. Raises OperatorError where it fails."""
    command = [sys.executable, "-m", *module]
    done = subprocess.run(command, input=json.dumps(asdict(load)), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OperatorError(f"{module[0]} failed:\n{done.stderr[-2000:]}")
    return Result(**json.loads(done.stdout))


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns, the first one to the left."""
    texts = [list(head), *([_shown(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(head))]
    return "\n".join(
        "  ".join(text.ljust(width) if column == 0 else text.rjust(width) for column, (text, width) in enumerate(pairs))
        for pairs in ([*zip(row, widths, strict=True)] for row in texts)
    )


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value != value:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def write_json(layout: Layout, name: str, values: Any) -> Path:
    """Keep all figures of a run under .trireme/bench; where."""
    path = layout.state / "bench" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return path


def summary(result: Result) -> dict[str, float]:
    """What is kept of a result."""
    return {
        "tokens_per_s": round(result.tokens_per_s, 1),
        "messages_per_s": round(result.messages / result.seconds, 1),
        "tokens_per_message": round(result.tokens / max(1, result.messages), 2),
        **{
            f"{name}_ms_p{round(100 * share)}": round(quantile(values, share), 3)
            for name, values in (("ttft", result.ttft_ms), ("gap", result.gaps_ms))
            for share in (0.5, 0.99)
        },
    }
