"""The tritonserver of the `nvidia-pytriton` wheel, or one that is installed: where it is, and how it is started."""

import fcntl
import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from trireme_runtime.shared_state import PREFIX_VARIABLE

from .errors import OperatorError
from .layout import Layout

#: The control APIs, which nobody may call without the key. The names are the same for HTTP and gRPC.
CONTROL_APIS = ("model-repository", "shared-memory", "trace", "logging")

#: The header that carries the key. For gRPC, Triton puts its own prefix in front of it.
CONTROL_HEADER = "trireme-control"
GRPC_HEADER_PREFIX = "triton-grpc-protocol-"

ADDRESS = "127.0.0.1"
EVERY_ADDRESS = "0.0.0.0"

#: Names the folder of an installed Triton, such as /opt/tritonserver in NVIDIA's container.
INSTALLED_VARIABLE = "TRIREME_TRITONSERVER"

_STUB = "triton_python_backend_stub"


@dataclass(frozen=True)
class Ports:
    """Where the server listens; health: where its supervisor does. address: IPv4; 0.0.0.0 is every one of the host."""

    http: int
    grpc: int
    metrics: int
    health: int
    address: str = field(default=ADDRESS, kw_only=True)

    @property
    def host(self) -> str:
        """The address by which this machine reaches it."""
        return ADDRESS if self.address == EVERY_ADDRESS else self.address


def libpython() -> Path:
    """Where the shared library of this interpreter should be; it need not exist."""
    name = sysconfig.get_config_var("INSTSONAME") or "libpython.so"
    return Path(sysconfig.get_config_var("LIBDIR") or "/nonexistent") / name


def installed_folder() -> Path | None:
    """The installed Triton that is to serve; None: the wheel's."""
    named = os.environ.get(INSTALLED_VARIABLE)
    return Path(named) if named else None


def wheel_folder() -> Path:
    """The folder `tritonserver` of the installed wheel. Raises OperatorError if it is not installed."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise OperatorError("nvidia-pytriton is not installed. Type: make setup")
    return Path(spec.submodule_search_locations[0]) / "tritonserver"


def backend_directory(state: Path) -> Path:
    """A backend directory with the Python backend and this interpreter's stub, assembled once per version."""
    installed = installed_folder()
    if installed is not None:
        return installed / "backends"
    wheel = wheel_folder()
    interpreter = f"{sys.version_info.major}.{sys.version_info.minor}"
    target = state / "backends" / f"pytriton-{version('nvidia-pytriton')}-python{interpreter}"
    if _is_whole(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Another server of this checkout may have been first.
        if not _is_whole(target):
            shutil.rmtree(target, ignore_errors=True)
            staging = target.with_name(f"{target.name}.new")
            shutil.rmtree(staging, ignore_errors=True)
            folder = staging / "python"
            shutil.copytree(wheel / "backends" / "python", folder, ignore=shutil.ignore_patterns("__pycache__"))
            shutil.copy2(wheel / "python_backend_stubs" / interpreter / _STUB, folder / _STUB)
            staging.rename(target)
    return target


def _is_whole(target: Path) -> bool:
    return (target / "python" / _STUB).is_file() and (target / "python" / "libtriton_python.so").is_file()


def environment(ports: Ports, shm_prefix: str) -> dict[str, str]:
    """The environment for the server: this interpreter's libraries first; nothing fetched, reported or written."""
    env = dict(os.environ)
    if installed_folder() is None:
        libraries = [str(libpython().parent), str(wheel_folder().parents[1] / "nvidia_pytriton.libs")]
        env = {name: value for name, value in env.items() if name not in ("PYTHONHOME", "PYTHONPATH")}
        env["LD_LIBRARY_PATH"] = os.pathsep.join([*libraries, *filter(None, [env.get("LD_LIBRARY_PATH")])])
    env["PATH"] = os.pathsep.join([str(Path(sys.prefix) / "bin"), env.get("PATH", "")])
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    env["HF_HUB_OFFLINE"] = "1"
    env["DO_NOT_TRACK"] = "1"
    env["TOKENIZERS_PARALLELISM"] = "false"
    # Where `ensemble_unary` finds the ensemble; never by way of a proxy.
    env["TRIREME_GRPC"] = f"{ports.host}:{ports.grpc}"
    env[PREFIX_VARIABLE] = shm_prefix
    env["no_grpc_proxy"] = ports.host
    if sys.prefix != sys.base_prefix:
        env["VIRTUAL_ENV"] = sys.prefix
    return env


def command(
    layout: Layout, repositories: Sequence[Path], ports: Ports, shm_prefix: str, exit_timeout_s: int
) -> list[str]:
    """The command line of the server on these model repositories, shut by default."""
    restricted = ",".join(CONTROL_APIS) + f":{CONTROL_HEADER}={layout.control_key()}"
    return [
        str((installed_folder() or wheel_folder()) / "bin" / "tritonserver"),
        *(f"--model-repository={repository}" for repository in repositories),
        f"--backend-directory={backend_directory(layout.state)}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        "--disable-auto-complete-config",
        "--model-control-mode=explicit",
        "--load-model=*",
        f"--http-address={ports.address}",
        f"--grpc-address={ports.address}",
        f"--metrics-address={ports.address}",
        f"--http-port={ports.http}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-port={ports.metrics}",
        f"--http-restricted-api={restricted}",
        f"--grpc-restricted-protocol={restricted}",
        f"--exit-timeout-secs={exit_timeout_s}",
    ]
