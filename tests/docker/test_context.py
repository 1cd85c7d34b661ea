"""What a builder is sent, by .dockerignore."""

import pytest

from dockerfiles import Ignore, context_of
from support import ROOT

#: The reference checkpoint has 9.7 MB, pinned requirements 1.3 MB; all else is source.
MAX_CONTEXT_BYTES = 16_000_000


@pytest.fixture(scope="module")
def files() -> list[str]:
    return context_of(ROOT)


@pytest.mark.parametrize(
    "path",
    [
        *("pyproject.toml", "README.md", "requirements/core.txt", "requirements/build.txt", "requirements/torch.txt"),
        *("build/trireme_build/publish.py", "build/recipes/reference-fp8-trtllm.toml"),
        *(
            "build/checkpoints/trireme-reference/model.safetensors",
            "build/checkpoints/trireme-reference/held_out.jsonl",
        ),
        *("runtime/trireme_runtime/contract.py", "ops/trireme_ops/serve.py", "gateway/trireme_gateway/command.py"),
        *("clients/trireme_client/sync_client.py", "loadtests/trireme_load/command.py"),
        *("model_repository/tensorrt_llm/1/manifest.json", "model_repository/preprocessing/1/tokenizer/tokenizer.json"),
        *("ensembles/ensemble/config.pbtxt", "docker/haproxy.cfg.in", "docker/requirements/gateway.txt"),
    ],
)
def test_what_images_are_made_of_is_sent(files: list[str], path: str) -> None:
    assert path in files


def test_whole_packages_are_sent(files: list[str]) -> None:
    for package in ("build/trireme_build", "runtime/trireme_runtime", "ops/trireme_ops", "gateway/trireme_gateway"):
        here = {path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*.py")}
        assert here <= set(files)


@pytest.mark.parametrize(
    "path",
    [
        *(
            ".git/config",
            ".git",
            ".venv/bin/python",
            ".venv-build/bin/python",
            ".venv-litellm/x",
            ".trireme/control.key",
        ),
        *(".env", "docker/compose/secrets/edge.pem", "compose.yaml", "docker/server.Dockerfile"),
        *("tests/support.py", "docs/README.md", ".ci/run", "Makefile", ".pytest_cache/x", ".mypy_cache/3.11/x"),
        *("ops/trireme_ops/__pycache__/cli.cpython-311.pyc", "model_repository/preprocessing/1/__pycache__/model.pyc"),
        *("model_repository/tensorrt_llm/1/engine/openvino_model.bin", "load-results/last/report.html", "server.key"),
    ],
)
def test_what_no_image_needs_stays_here(path: str) -> None:
    assert Ignore.of((ROOT / ".dockerignore").read_text(encoding="utf-8")).drops(path)


def test_it_is_small(files: list[str]) -> None:
    size = sum((ROOT / path).stat().st_size for path in files)
    assert size < MAX_CONTEXT_BYTES, f"{len(files)} files, {size} bytes"


@pytest.mark.parametrize(
    ("rules", "path", "drops"),
    [
        ("*", "a/b", True),
        ("*\n!a", "a/b", False),
        ("*\n!a\na/b", "a/b/c", True),
        ("*\n!a/*.txt", "a/b.txt", False),
        ("*\n!a/*.txt", "a/c/b.txt", True),
        ("**/x", "x", True),
        ("**/x", "a/b/x/c", True),
        ("a", "b/a", False),
        ("/a/", "a/c", True),
        ("a?c", "abc", True),
        ("# a\n\n", "a", False),
    ],
)
def test_rules_are_read_as_docker_reads_them(rules: str, path: str, drops: bool) -> None:
    assert Ignore.of(rules).drops(path) is drops
