"""A run of the load generator in the background, while something is done to what it asks."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from trireme_load.record import Record, read_csv

from ..errors import OperatorError

#: How long its own start and end may take beside the run, in s.
_BESIDE_S = 90.0


class LocustRun:
    """`trireme load` in a closed loop; use as a context, then `records` and `summary`.

    host: HOST:PORT over gRPC. seconds: of the measurement, after 1 s of warm-up. prompts: as `--prompts` takes them.
    """

    def __init__(self, host: str, scenario: str, users: int, seconds: float, out: Path, prompts: str) -> None:
        self._out = out
        self._seconds = seconds
        self._command = [sys.executable, "-m", "trireme_ops.cli", "load", "--host", host, "--scenario", scenario]
        self._command += ["--users", str(users), "--duration", f"{seconds:g}s", "--warm-up", "1s", "--seed", "7"]
        self._command += ["--prompts", prompts, "--out", str(out)]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "LocustRun":
        self._out.mkdir(parents=True, exist_ok=True)
        with (self._out / "log").open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=dict(os.environ))
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it now, in good order: `records` and `summary` tell of what there was until then."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait(timeout=_BESIDE_S)

    def wait(self) -> None:
        """Until it has ended. Raises OperatorError with what it said if it measured nothing."""
        assert self._process is not None
        # 1: a threshold was missed, or requests failed.
        if self._process.wait(timeout=self._seconds + _BESIDE_S) not in (0, 1):
            raise OperatorError(f"the load generator failed:\n{(self._out / 'log').read_text()[-2000:]}")

    def records(self) -> list[Record]:
        """Every request, once it has ended."""
        self.wait()
        return list(read_csv(self._out / "requests.csv"))

    def summary(self) -> dict[str, Any]:
        """What the run's summary.json says, once it has ended."""
        self.wait()
        found: dict[str, Any] = json.loads((self._out / "summary.json").read_text(encoding="utf-8"))
        return found
