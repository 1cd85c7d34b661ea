"""Who may import whom."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT

FOLDERS = {
    "trireme_runtime": "runtime",
    "trireme_build": "build",
    "trireme_client": "clients",
    "trireme_gateway": "gateway",
    "trireme_load": "loadtests",
    "trireme_ops": "ops",
}

#: Package -> what it may import of ours.
ALLOWED = {
    "trireme_runtime": set[str](),
    "trireme_client": {"trireme_runtime.contract"},
    "trireme_build": {"trireme_runtime"},
    "trireme_gateway": {
        "trireme_runtime.contract",
        "trireme_runtime.admission",
        "trireme_runtime.model_names",
        "trireme_runtime.checkout",
        "trireme_runtime.otlp",
        "trireme_runtime.toml_file",
        "trireme_client",
    },
    "trireme_load": {"trireme_runtime.contract", "trireme_client"},
    "trireme_ops": {"trireme_runtime", "trireme_client", "trireme_build", "trireme_load"},
}

#: Package -> what it must never import.
FORBIDDEN = {
    "trireme_runtime": {"torch"},
    "trireme_client": {"torch", "transformers", "openvino", "openvino_genai", "requests"},
    "trireme_build": {"tritonclient", "tensorrt_llm"},
    "trireme_gateway": {"torch", "transformers", "tensorrt_llm", "openvino", "openvino_genai"},
    "trireme_load": {"torch", "tensorrt_llm", "openvino"},
    "trireme_ops": {"torch"},
}

ENGINES = {"openvino", "openvino_genai", "tensorrt_llm"}

#: Imported in the processes of its adapters only, where it may take the GPU.
TENSORRT_LLM_FILES = {"tensorrt_llm_package.py", "tensorrt_llm_llmapi_child.py", "tensorrt_llm_executor_child.py"}


def files_of(package: str) -> list[Path]:
    return sorted((ROOT / FOLDERS[package] / package).rglob("*.py"))


def imports_of(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


@pytest.mark.parametrize("package", sorted(FOLDERS))
def test_a_package_imports_only_what_it_may(package: str) -> None:
    for path in files_of(package):
        for name in imports_of(path):
            top = name.split(".")[0]
            if top in FOLDERS and top != package:
                assert any(name == may or name.startswith(f"{may}.") for may in ALLOWED[package]), f"{path}: {name}"
            assert top not in FORBIDDEN[package], f"{path}: {name}"


def test_only_engine_adapters_import_an_inference_engine() -> None:
    for path in files_of("trireme_runtime"):
        if path.parent.name != "engines":
            assert not {name.split(".")[0] for name in imports_of(path)} & ENGINES, path


def test_only_the_processes_of_tensorrt_llm_import_it() -> None:
    importing = {
        path.name
        for path in files_of("trireme_runtime")
        if "tensorrt_llm" in {name.split(".")[0] for name in imports_of(path)}
    }
    assert importing == TENSORRT_LLM_FILES
    for path in files_of("trireme_runtime"):
        assert "tensorrt_llm" not in {name.split(".")[0] for name in imports_of(path, top_level_only=True)}, path


def test_the_client_needs_nothing_but_tritonclient_grpcio_and_numpy() -> None:
    known = set(sys.stdlib_module_names) | {"trireme_runtime", "trireme_client", "tritonclient", "grpc", "numpy"}
    for path in files_of("trireme_client"):
        assert {name.split(".")[0] for name in imports_of(path)} <= known, path


def test_ops_imports_the_build_package_inside_functions_only() -> None:
    for path in files_of("trireme_ops"):
        assert "trireme_build" not in {name.split(".")[0] for name in imports_of(path, top_level_only=True)}, path


MODULES_WITH_OPENVINO = [
    ".".join(path.relative_to(ROOT / FOLDERS[package]).with_suffix("").parts)
    for package in FOLDERS
    for path in files_of(package)
    if "openvino" in {name.split(".")[0] for name in imports_of(path, top_level_only=True)}
]


@pytest.mark.parametrize("module", MODULES_WITH_OPENVINO)
def test_openvino_tells_its_makers_nothing(module: str, tmp_path: Path) -> None:
    # It keeps quiet in continuous integration by itself, and leaves an id in the home folder elsewhere.
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(tmp_path)}
    code = (
        f"import {module}, openvino.tools.ovc as ovc\n"
        "print(type(ovc.telemetry).__module__)\n"
        "ovc.telemetry.send_event('ov', 'import', 'a test')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["build", "clients", "gateway", "tests"])
def test_no_top_level_folder_is_itself_a_package(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_ask_starts_without_what_only_other_commands_need() -> None:
    code = (
        "import sys; from trireme_ops.cli import main\n"
        "try: main(['ask', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'openvino', 'trireme_build'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.strip() == "[]"
