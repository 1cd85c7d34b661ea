"""What docs/containers.md has done before the first start: passwords and keys that the containers can read."""

import re
import subprocess
from pathlib import Path

import yaml

from support import ROOT

PAGE = ROOT / "docs" / "containers.md"


def test_the_passwords_and_keys_of_the_page_are_those_that_compose_wants(tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (script,) = (block for block in blocks if "openssl req" in block)
    done = subprocess.run(
        ["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    compose = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    wanted = set(re.findall(r"\$\{([A-Z_]+):\?", compose))
    made = dict(line.split("=", 1) for line in (tmp_path / ".env").read_text().splitlines())
    assert set(made) == wanted
    # One is part of a URL.
    assert all(re.fullmatch(r"[0-9a-f]{48}", password) for password in made.values())
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    for secret in yaml.safe_load(compose)["secrets"].values():
        path = tmp_path / secret["file"]
        assert path.stat().st_mode & 0o444 == 0o444
        assert path.parent.stat().st_mode & 0o077 == 0
    pem = tmp_path / "docker/compose/secrets/edge.pem"
    for what in ("x509", "pkey"):
        subprocess.run(["openssl", what, "-in", pem, "-noout"], check=True, capture_output=True, timeout=30)


def test_every_variable_of_compose_is_on_the_page() -> None:
    named = set(re.findall(r"\$\{([A-Z0-9_]+)", (ROOT / "compose.yaml").read_text(encoding="utf-8")))
    page = PAGE.read_text(encoding="utf-8")
    assert {name for name in named if f"`{name}`" not in page} == set()
