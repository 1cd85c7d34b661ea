"""Writes docker/requirements/*.txt: of the pinned requirements, what one image needs.

    python docker/subset.py

Each block, version and hashes, is a copy of that in requirements/; `make lock` changes those, and this is run after it.
Which packages a package brings is read from what is installed here, so that is to be the developers' environment.
"""

import contextlib
import re
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).resolve().parent
REQUIREMENTS = FOLDER.parent / "requirements"

_CALLS = (
    "tritonclient[grpc]",
    "numpy",
    "ml-dtypes",
    "grpcio",
    "protobuf",
    "prometheus-client",
    "pydantic",
    "packaging",
)
_GATEWAY = (
    *("starlette", "cachetools", "uvicorn", "uvloop", "httptools", "redis", "argon2-cffi", "sqlalchemy"),
    *("psycopg[binary]", "structlog", "phonenumbers", "opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"),
    "cryptography",
)
#: What `pip install --no-build-isolation --editable .` needs.
_INSTALL = ("hatchling", "editables")

#: File -> where its blocks come from, the packages that are imported, and the Python that they are for.
IMAGES = {
    "gateway.txt": ("core.txt", (*_CALLS, *_GATEWAY, "rich", *_INSTALL), "3.11"),
    "loadtest.txt": (
        "load.txt",
        (*_CALLS, "locust", "matplotlib", "msgpack", "tqdm", "jinja2", "rich", *_INSTALL),
        "3.11",
    ),
    # Of these, NVIDIA's image has most, in versions of its own: docker/lacking.py leaves those out.
    "gpu.txt": (
        "core.txt",
        (*_CALLS, "jinja2", "cryptography", "model-signing", "pyopenssl", "tqdm", "rich", *_INSTALL),
        "3.12",
    ),
}


def blocks(text: str) -> dict[str, str]:
    """Name -> its lines, of a file as `uv pip compile --generate-hashes` writes it."""
    found = dict[str, str]()
    for block in re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE):
        if match := re.match(r"([A-Za-z0-9._-]+)==", block):
            # Which other package wants it is not said: here that may be another one.
            lines = [line for line in block.splitlines() if not line.lstrip().startswith("#")]
            # Two versions of one package are for different Pythons.
            name = canonicalize_name(match[1])
            found[name] = found.get(name, "") + "\n".join(lines) + "\n"
    return found


def closure(wanted: Iterable[str], python: str) -> set[str]:
    """The names of `wanted`, and of all that they bring on Linux with this Python."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    found = set[tuple[str, str]]()
    waiting = [Requirement(text) for text in wanted]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if (name, extra) in found:
                continue
            found.add((name, extra))
            # What is for another patch release of Python is not installed here. If it brought something that is missing
            # then, pip would refuse to install it without a hash.
            with contextlib.suppress(PackageNotFoundError):
                waiting += _brought(name, extra, environment)
    return {name for name, _ in found}


def _brought(name: str, extra: str, environment: dict[str, str]) -> list[Requirement]:
    brought = [Requirement(text) for text in requires(name) or []]
    return [one for one in brought if one.marker is None or one.marker.evaluate({**environment, "extra": extra})]


def render(image: str) -> str:
    """The text of one file."""
    source, wanted, python = IMAGES[image]
    available = blocks((REQUIREMENTS / source).read_text(encoding="utf-8"))
    names = sorted(closure(wanted, python))
    missing = [name for name in names if name not in available]
    if missing:
        raise SystemExit(f"requirements/{source} does not have {', '.join(missing)}")
    head = f"# Written by docker/subset.py from requirements/{source}, for CPython {python}.\n"
    return head + "".join(available[name] for name in names)


def main() -> int:
    target = FOLDER / "requirements"
    target.mkdir(exist_ok=True)
    for image in IMAGES:
        (target / image).write_text(render(image), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
