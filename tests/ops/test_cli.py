"""The `trireme` command as the README installs it: without what is only for load tests, training and developers."""

import re
import subprocess
import sys
from importlib.metadata import entry_points, packages_distributions

import pytest

from support import ROOT

#: Imports nothing of the modules that its first argument names; then the command, once for each further argument.
PROGRAM = """
import sys

missing = set(sys.argv[1].split(","))

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from trireme_ops.cli import main

for words in sys.argv[2:]:
    try:
        status = main(words.split())
    except SystemExit as end:
        status = end.code or 0
    print(f"status of {words}: {status}")
"""


def name_of(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


@pytest.fixture(scope="module")
def not_installed() -> set[str]:
    """The modules of packages that `make setup` does not install."""
    pins = (ROOT / "requirements" / "core.txt").read_text(encoding="utf-8")
    core = {name_of(name) for name in re.findall(r"(?m)^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==", pins)} | {"trireme", "pip"}
    found = {module for module, owners in packages_distributions().items() if not core & set(map(name_of, owners))}
    assert {"locust", "matplotlib", "msgpack", "pytest"} <= found
    return found


def outcomes(not_installed: set[str], *commands: str) -> dict[str, str]:
    """Exit statuses of commands, with nothing installed but the core."""
    command = [sys.executable, "-c", PROGRAM, ",".join(not_installed), *commands]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(re.findall(r"(?m)^status of (.*): (\S+)$", done.stdout))


def test_what_is_asked_of_the_command_itself_is_answered(not_installed: set[str]) -> None:
    assert outcomes(not_installed, "--help", "--version", "aks hi", "--hlep") == {
        "--help": "0",
        "--version": "0",
        "aks hi": "2",
        "--hlep": "2",
    }


def test_every_command_explains_itself(not_installed: set[str]) -> None:
    asked = [f"{point.name} --help" for point in entry_points(group="trireme.commands")]
    assert outcomes(not_installed, *asked) == dict.fromkeys(asked, "0")
