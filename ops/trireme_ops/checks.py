"""What a machine needs to serve, each as one check that says what to type where something is missing."""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from google.protobuf import text_format

from trireme_runtime.checkout import version_folders
from trireme_runtime.manifest import SIGNATURE, ManifestError, read_manifest, sha256_of
from trireme_runtime.model_config import read_config
from trireme_runtime.versions import key_of_environment, verify_version

from . import embedded, ports, processes
from .errors import OperatorError
from .layout import DEFAULT_ENGINE, Layout, engine_of
from .releases.llm import llms

#: Within a version.
_TOKENIZER = Path("tokenizer", "tokenizer.json")

MEBIBYTE = 1 << 20
MIN_SHM_BYTES = 64 * MEBIBYTE
MIN_DISK_BYTES = 256 * MEBIBYTE
MIN_MEMORY_BYTES = 1024 * MEBIBYTE


class Status(str, Enum):
    """How a check ended. FAIL keeps the server from starting."""

    OK = "ok"
    NOTE = "note"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """What a check found. `fix` is what to type; empty where nothing is wrong."""

    check: str
    status: Status
    detail: str
    fix: str = ""


def python_version() -> Finding:
    """Interpreter versions for which pinned wheels and a Triton stub exist."""
    name = f"{platform.python_implementation()} {platform.python_version()}"
    if (3, 10) <= sys.version_info[:2] <= (3, 12) and platform.python_implementation() == "CPython":
        return Finding("python", Status.OK, name)
    return Finding(
        "python", Status.FAIL, f"{name}; CPython 3.10 to 3.12 is needed", "make clean serve PYTHON=python3.11"
    )


def system() -> Finding:
    """The wheel holds Linux x86-64 binaries."""
    name = f"{platform.system()} {platform.machine()}"
    if name == "Linux x86_64":
        return Finding("system", Status.OK, f"{name}, {' '.join(platform.libc_ver())}")
    return Finding("system", Status.FAIL, f"{name}; the embedded server needs Linux x86_64", "use such a machine")


def shared_libpython() -> Finding:
    """The stub of Triton's Python backend is linked against the shared library of the interpreter."""
    if embedded.installed_folder() is not None:
        return Finding("libpython", Status.OK, "the installed tritonserver brings its own")
    library = embedded.libpython()
    if library.is_file():
        return Finding("libpython", Status.OK, str(library))
    short = f"{sys.version_info.major}.{sys.version_info.minor}"
    fix = f"sudo apt-get install libpython{short}"
    if ".pyenv" in sys.base_prefix:
        fix = f"PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install --force {platform.python_version()}"
    return Finding("libpython", Status.FAIL, f"{library} not found; the model processes cannot start without it", fix)


def tritonserver() -> Finding:
    """The server itself, and the stub for this interpreter."""
    installed = embedded.installed_folder()
    if installed is not None:
        for part in (installed / "bin" / "tritonserver", installed / "backends" / "python"):
            if not part.exists():
                fix = f"another folder in ${embedded.INSTALLED_VARIABLE}, such as /opt/tritonserver"
                return Finding("tritonserver", Status.FAIL, f"{part} not found", fix)
        return Finding("tritonserver", Status.OK, f"in {installed}")
    try:
        wheel = embedded.wheel_folder()
        release = version("nvidia-pytriton")
    except (OperatorError, PackageNotFoundError):
        return Finding("tritonserver", Status.FAIL, "nvidia-pytriton is not installed", "make setup")
    if not (wheel / "bin" / "tritonserver").is_file():
        return Finding("tritonserver", Status.FAIL, f"{wheel / 'bin' / 'tritonserver'} not found", "make clean setup")
    return Finding("tritonserver", Status.OK, f"of nvidia-pytriton {release}")


def numpy_version() -> Finding:
    """Tensors come out garbled in the stub with numpy 2."""
    release = version("numpy")
    if int(release.split(".")[0]) < 2:
        return Finding("numpy", Status.OK, release)
    return Finding("numpy", Status.FAIL, f"{release}; a version below 2 is needed", "make clean setup")


def shared_memory() -> Finding:
    """Tensors between the server and its stubs go through /dev/shm."""
    try:
        free = shutil.disk_usage(processes.SHM).free
    except OSError as error:
        return Finding("/dev/shm", Status.FAIL, str(error), "mount -t tmpfs tmpfs /dev/shm")
    detail = f"{free // MEBIBYTE} MiB free"
    if free >= MIN_SHM_BYTES:
        return Finding("/dev/shm", Status.OK, detail)
    fix = "mount -o remount,size=1G /dev/shm   (in a container: start it with --shm-size=1g)"
    return Finding("/dev/shm", Status.FAIL, f"{detail}; {MIN_SHM_BYTES // MEBIBYTE} MiB are needed", fix)


def leftovers() -> Finding:
    """Shared memory of servers that were killed; the next `serve` removes it."""
    regions = processes.abandoned_regions()
    if not regions:
        return Finding("leftovers", Status.OK, "none")
    detail = f"{len(regions)} shared-memory regions of servers that are gone (the next serve removes them)"
    return Finding("leftovers", Status.NOTE, detail, "rm " + " ".join(map(str, regions)))


def paths(layout: Layout) -> Finding:
    """Triton's Python backend starts its stubs through a shell, without quoting."""
    for path in (layout.root, Path(sys.prefix)):
        if re.search(r"[^\w./@%+=:,-]", str(path), re.ASCII):
            detail = f"{str(path)!r} holds a character that Triton cannot start model processes with"
            return Finding(
                "path", Status.FAIL, detail, "mv it to a path of letters, digits and . _ - /; then make clean"
            )
    return Finding("path", Status.OK, str(layout.root))


def control_key(layout: Layout) -> Finding:
    """The key to the control APIs: made at the first `serve`, for its owner alone."""
    path = layout.state / "control.key"
    if not path.exists():
        return Finding("control key", Status.OK, "made at the first serve")
    try:
        layout.control_key()
    except (OperatorError, OSError, ValueError) as error:
        fix = f"chmod 600 {path}; or rm {path}: the next serve makes a new one"
        return Finding("control key", Status.FAIL, str(error), fix)
    return Finding("control key", Status.OK, str(path))


def repositories(layout: Layout) -> list[Finding]:
    """Every model has a configuration that parses and a version; every step of an ensemble is a model."""
    findings, steps = [], dict[str, set[str]]()
    for repository in layout.repositories:
        models = sorted(path for path in repository.iterdir() if path.is_dir()) if repository.is_dir() else []
        if not models:
            fix = f"git checkout -- {repository.name}"
            findings.append(Finding(repository.name, Status.FAIL, f"{repository} holds no model", fix))
        for model in models:
            problem = None
            path = model / "config.pbtxt"
            try:
                config = read_config(path)
                steps[model.name] = {step.model_name for step in config.ensemble_scheduling.step}
                if config.name and config.name != model.name:
                    problem = f"{path}: name is {config.name!r}, the folder is {model.name!r}"
                elif not version_folders(model):
                    problem = f"{model} holds no numbered version folder"
            except FileNotFoundError:
                problem = f"{path}: missing"
            except (text_format.ParseError, UnicodeDecodeError) as error:
                problem = f"{path}: {error}"
            if problem:
                fix = f"git checkout -- {model.relative_to(layout.root)}"
                findings.append(Finding(model.name, Status.FAIL, problem, fix))
    for name, models_of_steps in steps.items():
        for missing in sorted(models_of_steps - steps.keys()):
            findings.append(
                Finding(
                    name,
                    Status.FAIL,
                    f"the ensemble's step {missing!r} is no model",
                    "git checkout -- model_repository",
                )
            )
    return findings or [Finding("configs", Status.OK, f"{len(steps)} models, every step of an ensemble among them")]


def disk(layout: Layout) -> Finding:
    """The engine is generated into the model repository, logs go beside it."""
    free = shutil.disk_usage(layout.root).free
    detail = f"{free // MEBIBYTE} MiB free at {layout.root}"
    if free >= MIN_DISK_BYTES:
        return Finding("disk", Status.OK, detail)
    fix = f"free some space on the file system of {layout.root}"
    return Finding("disk", Status.FAIL, f"{detail}; {MIN_DISK_BYTES // MEBIBYTE} MiB are needed", fix)


def memory() -> Finding:
    """Four processes, the model and its KV cache."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    detail = f"{available // MEBIBYTE} MiB available"
    if available >= MIN_MEMORY_BYTES:
        return Finding("memory", Status.OK, detail)
    needed = f"{detail}; {MIN_MEMORY_BYTES // MEBIBYTE} MiB are advisable"
    return Finding(
        "memory",
        Status.NOTE,
        needed,
        "lower max_tokens_in_paged_kv_cache in model_repository/tensorrt_llm/config.pbtxt",
    )


def cpu() -> Finding:
    """OpenVINO runs on any x86-64 with SSE4.2; it is fast with AVX2 and more."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    flags = set(next((line for line in lines if line.startswith("flags")), "").partition(":")[2].split())
    known = [flag for flag in ("sse4_2", "avx2", "avx512f", "avx512_vnni", "amx_bf16") if flag in flags]
    detail = f"{os.cpu_count()} cores, {', '.join(known) or 'no known vector flags'}"
    if "sse4_2" not in flags:
        return Finding("cpu", Status.FAIL, f"{detail}; OpenVINO needs SSE4.2", "use a machine with a newer CPU")
    if "avx2" not in flags:
        return Finding("cpu", Status.NOTE, f"{detail}; without AVX2 generation is slow", "use a machine with AVX2")
    return Finding("cpu", Status.OK, detail)


def gpu() -> Finding:
    """No GPU is needed for the profile cpu."""
    if not list(Path("/dev").glob("nvidia[0-9]*")) or shutil.which("nvidia-smi") is None:
        return Finding("gpu", Status.OK, "none (the profile cpu needs none)")
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode != 0:
        return Finding("gpu", Status.NOTE, "nvidia-smi fails: " + done.stdout.strip()[:200], "nvidia-smi")
    return Finding("gpu", Status.OK, "; ".join(done.stdout.strip().splitlines()))


def free_ports(wanted: embedded.Ports) -> list[Finding]:
    """Whether the server's ports can be bound; 0 lets the system choose."""
    named = [("http", wanted.http), ("grpc", wanted.grpc), ("metrics", wanted.metrics), ("health", wanted.health)]
    taken = [name for name, port in named if port and not ports.is_free(port, wanted.address)]
    # One line to type for all of them.
    others = " ".join(f"--{name}-port {port}" for name, port in zip(taken, ports.free_ports(len(taken)), strict=True))
    fix = f"make serve ARGS='{others}'   (or stop what listens there)"
    findings = []
    for name, port in named:
        if name in taken:
            findings.append(Finding(f"{name} port", Status.FAIL, f"{port} is in use", fix))
        elif port and [p for _, p in named].count(port) > 1:
            detail = f"{port} is given for two endpoints"
            findings.append(Finding(f"{name} port", Status.FAIL, detail, f"another --{name}-port"))
        else:
            findings.append(Finding(f"{name} port", Status.OK, f"{port or 'any'} on {wanted.address}"))
    return findings


def free_gateway_port(wanted: int | None) -> list[Finding]:
    """Whether a gateway could listen; nothing to say where none is wanted."""
    if wanted is None or ports.is_free(wanted):
        return []
    (other,) = ports.free_ports(1)
    fix = f"make serve ARGS='--gateway-port {other}', or off   (or stop what listens there)"
    return [Finding("gateway port", Status.FAIL, f"{wanted} is in use", fix)]


def manifests(layout: Layout) -> list[Finding]:
    """Every version folder that is served against its manifest, and the engine's source."""
    findings = []
    for folder in layout.served_versions:
        name = f"{folder.parent.name}/{folder.name}"
        try:
            manifest = verify_version(folder, key_of_environment())
            detail = f"{len(manifest['files'])} files as the manifest says"
            source = manifest.get("source") if engine_of(folder) == DEFAULT_ENGINE else None
            if source and not (folder / "engine").is_dir():
                detail += "; the engine is made at the first serve"
            elif source and read_manifest(folder / "engine").get("source") != source:
                detail += "; the engine is made anew at the next serve"
            findings.append(Finding(name, Status.OK, detail))
        except ManifestError as error:
            relative = folder.relative_to(layout.root)
            findings.append(Finding(name, Status.FAIL, str(error), _mended_by(relative, str(error))))
    if not findings:
        fix = "git checkout -- model_repository"
        findings.append(Finding("versions", Status.FAIL, "the model repository holds no version", fix))
    return findings


def same_tokenizers(layout: Layout) -> list[Finding]:
    """Whether the versions of each LLM that a server loads have one tokenizer."""
    served = {folder.parent.name: folder for folder in layout.served_versions}
    findings = []
    for llm in llms(layout):
        folders = [served[model] for model in llm.steps if model in served]
        digests = [sha256_of(path) for folder in folders if (path := folder / _TOKENIZER).is_file()]
        if len(digests) < len(llm.steps):
            # A version that is missing, or holds no tokenizer, is a finding of other checks.
            continue
        names = [f"{folder.parent.name}/{folder.name}" for folder in folders]
        if len(set(digests)) == 1:
            findings.append(Finding(f"{llm.name}: tokenizer", Status.OK, f"one in {', '.join(names)}"))
            continue
        alike = [
            ", ".join(n for n, d in zip(names, digests, strict=True) if d == one) for one in dict.fromkeys(digests)
        ]
        detail = (
            f"the versions that are served have different tokenizers: {' | '.join(alike)}; mixed, they answer garbage"
        )
        fix = (
            "trireme release create, with versions that fit, and trireme serve --release NAME; or publish what is "
            "missing: trireme publish-tokenizer --checkpoint DIR, trireme build RECIPE"
        )
        findings.append(Finding(f"{llm.name}: tokenizer", Status.FAIL, detail, fix))
    return findings


def _mended_by(version: Path, problem: str) -> str:
    """What to type where a version, relative to the root, is not what it should be."""
    if "signed" in problem or SIGNATURE in problem:
        return f"trireme sign {version} --key PRIVATE_KEY, if it is yours"
    if "/engine/" in problem and version.name == "1":
        return f"rm -r {version}/engine"
    return f"git checkout -- {version}" if version.name == "1" else f"rm -rf {version}, and publish it again"


def all_checks(layout: Layout, wanted: embedded.Ports) -> list[Finding]:
    """Run every check."""
    single: Iterable[Callable[[], Finding]] = (
        python_version,
        system,
        shared_libpython,
        tritonserver,
        numpy_version,
        shared_memory,
        leftovers,
        memory,
        cpu,
        gpu,
    )
    return [
        *(check() for check in single),
        paths(layout),
        disk(layout),
        control_key(layout),
        *free_ports(wanted),
        *repositories(layout),
        *manifests(layout),
        *same_tokenizers(layout),
    ]
