"""Speed, measured in this run: each version's engine alone, in a process of its own, all of them by turns."""

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from trireme_runtime.engines.base import EngineSettings

from ..bench.load import Load, Result, quantile
from ..bench.runs import measure_engine
from ..errors import OperatorError
from .versions import Version

STREAMS = 8
MAX_TOKENS = 64
ROUNDS = 2

#: The one engine that can be driven here.
ENGINE = "openvino"

#: Of a single stream's answers: short, so that many of them begin within the time.
_TTFT_MAX_TOKENS = 16

_PROMPT = "Tell me something about it."


@dataclass(frozen=True)
class Speed:
    """Of one version, a result a round: `many` with STREAMS streams, `single` with one."""

    many: tuple[Result, ...]
    single: tuple[Result, ...]

    @property
    def tokens_per_s(self) -> float:
        """Over all rounds."""
        return sum(result.tokens for result in self.many) / sum(result.seconds for result in self.many)

    @property
    def tokens_per_s_range(self) -> tuple[float, float]:
        """Of the slowest and the fastest round."""
        rates = [result.tokens_per_s for result in self.many]
        return min(rates), max(rates)

    @property
    def ttft_ms(self) -> float | None:
        """The median over all rounds; None if no answer began while it was measured."""
        values = [value for result in self.single for value in result.ttft_ms]
        return quantile(values, 0.5) if values else None

    @property
    def ttft_ms_range(self) -> tuple[float, float] | None:
        """Of the rounds' medians, the lowest and the highest."""
        medians = [quantile(result.ttft_ms, 0.5) for result in self.single if result.ttft_ms]
        return (min(medians), max(medians)) if medians else None


@dataclass(frozen=True)
class Machine:
    """Where and when it was measured. load: running processes, a mean over the minute before."""

    at: datetime
    cpu: str
    cores: int
    load: float

    @classmethod
    def here(cls, at: datetime) -> "Machine":
        """This machine, as it is before anything is measured."""
        return cls(at, _cpu_name(), len(os.sched_getaffinity(0)), os.getloadavg()[0])


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def measure(versions: Sequence[Version], seconds: float) -> list[Speed | None]:
    """The speed of each version; None for one of an engine that cannot be driven here.

    Raises OperatorError naming a version whose engine fails.
    """
    from tqdm import tqdm

    many: list[list[Result]] = [[] for _ in versions]
    single: list[list[Result]] = [[] for _ in versions]
    here = [index for index, version in enumerate(versions) if version.engine == ENGINE]
    # By turns: the machine's other work should hit all of them.
    turns = [(index, streams) for _ in range(ROUNDS) for index in here for streams in (STREAMS, 1)]
    with tqdm(turns, unit="measurement", file=sys.stderr, disable=None if turns else True) as progress:
        for index, streams in progress:
            progress.set_description(f"{versions[index].name}, {streams} stream{'s' * (streams > 1)}")
            (many if streams == STREAMS else single)[index].append(_measure(versions[index], streams, seconds))
    return [Speed(tuple(m), tuple(s)) if m else None for m, s in zip(many, single, strict=True)]


def _measure(version: Version, streams: int, seconds: float) -> Result:
    tokens = MAX_TOKENS if streams > 1 else _TTFT_MAX_TOKENS
    load = Load("", version.model, streams, tokens, seconds, warm_up_s=seconds / 2, prompt=_PROMPT)
    tokenizer = version.folder / "tokenizer"
    try:
        return measure_engine(version.engine, version.folder / "engine", EngineSettings(), tokenizer, load)
    except OperatorError as error:
        raise OperatorError(f"version {version.name} cannot be measured (--no-speed does without): {error}") from error
