"""Every command in the documentation: run here, or a target of the Makefile."""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gateway_runs import Gateway
from support import ROOT, Server

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[tuple[Path, str]]:
    return [
        (page, body)
        for page in PAGES
        for kind, body in BLOCK.findall(page.read_text(encoding="utf-8"))
        if kind == language
    ]


def commands() -> list[tuple[str, str, str]]:
    """(page, command, expected output) of every `console` block."""
    found = []
    for page, body in blocks("console"):
        for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((page.name, command, output))
    return found


@pytest.mark.parametrize(("page", "command", "output"), commands(), ids=lambda value: value[:40])
def test_a_command_prints_what_the_page_says(
    server: Server, gateway: Gateway, page: str, command: str, output: str
) -> None:
    here = command.replace("127.0.0.1:8080", gateway.address)
    here = here.replace("127.0.0.1:8000", server.addresses["http"])
    here = here.replace("127.0.0.1:8003", server.addresses["health"])
    here = here.replace(".venv/bin/", f"{Path(sys.executable).parent}/")
    done = subprocess.run(
        ["bash", "-c", here],
        cwd=ROOT,
        env={**os.environ, "TRIREME_URL": server.grpc},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.rstrip("\n") == output.rstrip("\n"), f"{page}: {done.stderr}"


@pytest.mark.parametrize("page", sorted({page.name for page, _ in blocks("python")}))
def test_the_python_of_a_page_runs(server: Server, gateway: Gateway, page: str) -> None:
    for source, body in blocks("python"):
        if source.name == page:
            code = body.replace("127.0.0.1:8001", server.grpc).replace("127.0.0.1:8080", gateway.address)
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            assert done.stdout


def test_the_printed_answers_of_clients_md_are_true(server: Server) -> None:
    found = BLOCK.findall((ROOT / "docs" / "clients.md").read_text(encoding="utf-8"))
    for (kind, code), (_, output) in itertools.pairwise(found):
        if kind == "python":
            here = code.replace("127.0.0.1:8001", server.grpc)
            done = subprocess.run([sys.executable, "-c", here], capture_output=True, text=True, timeout=60)
            assert done.stdout == output


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named = re.findall(r"^make ([a-z-]+)", text, flags=re.MULTILINE) + re.findall(r"`make ([a-z-]+)", text)
        assert set(named) <= targets, page


def test_every_link_leads_somewhere() -> None:
    for page in [*PAGES, ROOT / "build" / "checkpoints" / "trireme-reference" / "README.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page}: {target}"


def test_ci_calls_exactly_the_readmes_test_command() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "make test\n" in script
    assert "make test\n" in (ROOT / "README.md").read_text()
