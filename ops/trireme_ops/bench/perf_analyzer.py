"""NVIDIA's perf_analyzer: where it comes from, how it is run, and what it says.

The binary lies in the wheel of tritonclient 2.51.0, which asks for libcudart.so.12 (another wheel) and libb64 (Debian's
libb64-0d), whatever it measures. They are unpacked to .trireme/perf_analyzer, and nothing is installed.
"""

import csv
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import OperatorError
from ..layout import Layout

_REQUIREMENTS = Path("requirements") / "perf-analyzer.txt"
_BINARY = Path("tritonclient-2.51.0.data", "data", "bin", "perf_analyzer")


@dataclass(frozen=True)
class PerfAnalyzer:
    """An unpacked one."""

    binary: Path
    libraries: tuple[Path, ...]

    def run(self, address: str, concurrency: int, seconds: float, data: Path, out: Path) -> float:
        """Requests/s over gRPC streams in a closed loop. data: its input file. Raises OperatorError."""
        command = [str(self.binary), "-m", "ensemble", "-u", address, "-i", "grpc", "--streaming", "--async"]
        command += ["--concurrency-range", str(concurrency), "--input-data", str(data), "-f", str(out)]
        command += ["--measurement-interval", str(int(1000 * seconds)), "--max-trials", "4"]
        path = ":".join(map(str, self.libraries))
        done = subprocess.run(
            command,
            env={**os.environ, "LD_LIBRARY_PATH": path},
            capture_output=True,
            text=True,
            timeout=60 + 8 * seconds,
            check=False,
        )
        if not out.exists():
            raise OperatorError(
                f"perf_analyzer failed (status {done.returncode}):\n{(done.stdout + done.stderr)[-2000:]}"
            )
        with out.open(newline="", encoding="utf-8") as file:
            (row,) = csv.DictReader(file)
        return float(row["Inferences/Second"])


def prepare(layout: Layout) -> PerfAnalyzer:
    """Unpack what is needed, once. Raises OperatorError saying what cannot be had."""
    folder = layout.state / "perf_analyzer"
    wheels = folder / "wheels"
    if not (folder / _BINARY).exists():
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q", "--no-deps"]
        command += ["--require-hashes", "-r", str(layout.root / _REQUIREMENTS), "-d", str(wheels)]
        _call(command, "its wheels cannot be downloaded")
        for wheel in wheels.glob("*.whl"):
            with zipfile.ZipFile(wheel) as file:
                file.extractall(folder)
        (folder / _BINARY).chmod(0o755)
    cuda = next(folder.rglob("libcudart.so.12")).parent
    return PerfAnalyzer(folder / _BINARY, (cuda, *_libb64(folder)))


def _libb64(folder: Path) -> tuple[Path, ...]:
    """Where libb64 is, where the system has none of its own."""
    there = list(Path("/usr/lib").glob("*/libb64.so.0d"))
    unpacked = list(folder.rglob("libb64.so.0d"))
    if there or unpacked:
        return tuple(path.parent for path in unpacked[:1])
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise OperatorError("perf_analyzer needs libb64.so.0d; install the package that has it")
    folder.mkdir(parents=True, exist_ok=True)
    _call(["apt-get", "-qq", "download", "libb64-0d"], "libb64-0d cannot be downloaded", folder)
    _call(["dpkg", "-x", *(str(path) for path in folder.glob("libb64*.deb")), str(folder)], "libb64-0d is broken")
    return (next(folder.rglob("libb64.so.0d")).parent,)


def _call(command: list[str], problem: str, folder: Path | None = None) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        raise OperatorError(f"{problem}: {done.stderr.strip()[-500:]}")
