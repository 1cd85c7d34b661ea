"""Runs the clients that know the answers beside whatever is done to a server, and reads what became of them."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import IO

from ..errors import OperatorError
from .load import quantile
from .questions import Asked, Questions

#: What the reference LLM is asked: short ones for unary calls, and streams of up to 190 tokens.
UNARY = [(f"What is {one} + {other}?", str(one + other)) for one, other in ((37, 58), (12, 30), (99, 99), (8, 61))]
STREAMED = [(f"Count from 1 to {last}.", " ".join(map(str, range(1, last + 1)))) for last in (20, 40, 60, 30)]


@dataclass
class Record:
    """What became of all questions, once it is over."""

    asked: list[Asked] = field(default_factory=list)

    @property
    def failed(self) -> list[Asked]:
        """Those that got an error."""
        return [one for one in self.asked if one.error is not None]

    @property
    def mixed(self) -> list[Asked]:
        """Those that were answered, and wrongly: tokenizer and engine were not of one release."""
        return [one for one in self.asked if one.wrong is not None]

    def ttft_s(self, spans: Sequence[tuple[float, float]]) -> list[float]:
        """Of the streams that began within one of these times of the monotonic clock."""
        return [
            one.ttft_s
            for one in self.asked
            if one.ttft_s is not None and any(begin <= one.at < end for begin, end in spans)
        ]

    def ttft_p99_s(self, spans: Sequence[tuple[float, float]]) -> float:
        """NaN where no stream began."""
        return quantile(self.ttft_s(spans), 0.99)


@contextmanager
def asking(questions: Questions) -> Iterator[Record]:
    """Ask until the end; the record is filled then. Raises OperatorError if the clients fail themselves."""
    record = Record()
    with tempfile.TemporaryFile("w+") as results, tempfile.TemporaryFile("w+") as errors:
        process = _start(results, errors)
        assert process.stdin is not None
        process.stdin.write(json.dumps(asdict(questions)) + "\n")
        process.stdin.flush()
        try:
            yield record
        finally:
            process.stdin.close()
            try:
                process.wait(timeout=questions.timeout_s + 30)
            finally:
                process.kill()
        errors.seek(0)
        if process.returncode != 0:
            raise OperatorError(f"the clients failed:\n{errors.read()[-2000:]}")
        results.seek(0)
        record.asked = [Asked(**json.loads(line)) for line in results]


def _start(results: IO[str], errors: IO[str]) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "trireme_ops.bench.questions"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=results, stderr=errors, text=True)


def saturating_pace_s(questions: Questions, seconds: float, wait: Callable[[float], None] = time.sleep) -> float:
    """How often each client gets an answer when all ask as soon as they can, in s between two."""
    with asking(questions) as record:
        wait(seconds)
    clients = questions.streaming_clients + questions.unary_clients
    return clients * seconds / max(1, len(record.asked))
