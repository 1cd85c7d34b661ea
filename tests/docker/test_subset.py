"""The requirements of single images are copies of the project's."""

import importlib.util
import subprocess
import sys
from types import ModuleType

import pytest

from support import ROOT


def script(name: str) -> ModuleType:
    """A script of docker/, as a module."""
    spec = importlib.util.spec_from_file_location(f"docker_{name}", ROOT / "docker" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


subset = script("subset")
lacking = script("lacking")
gpu_imports = script("gpu_imports")


@pytest.mark.parametrize("image", subset.IMAGES)
def test_the_committed_file_is_what_the_pinned_requirements_give(image: str) -> None:
    committed = (ROOT / "docker" / "requirements" / image).read_text(encoding="utf-8")
    assert committed == subset.render(image), "type: .venv/bin/python docker/subset.py"


@pytest.mark.parametrize("image", subset.IMAGES)
def test_every_block_is_that_of_the_source_with_all_its_hashes(image: str) -> None:
    source = subset.blocks((ROOT / "requirements" / subset.IMAGES[image][0]).read_text(encoding="utf-8"))
    blocks = subset.blocks((ROOT / "docker" / "requirements" / image).read_text(encoding="utf-8"))
    assert blocks
    for name, block in blocks.items():
        assert block == source[name]
        assert "--hash=sha256:" in block


def test_a_gateway_brings_no_engine() -> None:
    blocks = subset.blocks((ROOT / "docker" / "requirements" / "gateway.txt").read_text(encoding="utf-8"))
    assert not set(blocks) & {"nvidia-pytriton", "openvino", "openvino-genai", "transformers", "tokenizers", "torch"}


def test_what_is_there_in_any_version_is_not_asked_for() -> None:
    text = (
        "# head\nnumpy==1 \\\n    --hash=sha256:a\nTyping_Extensions==2 \\\n    --hash=sha256:b\nx==1\n    --hash=c\n"
    )
    assert lacking.lacking(text, {"numpy", "typing-extensions"}) == "x==1\n    --hash=c\n"
    assert lacking.lacking(text, {"numpy", "typing-extensions", "x"}) == ""


def test_the_gpu_image_has_all_that_serving_imports() -> None:
    """Where nothing can be imported but what its list names, and what NVIDIA's image has."""
    names = subset.blocks((ROOT / "docker" / "requirements" / "gpu.txt").read_text(encoding="utf-8"))
    allowed = {*names, *gpu_imports.NVIDIAS, "trireme"}
    code = f"""
import importlib, importlib.abc, sys
from importlib.metadata import packages_distributions

class Refuse(importlib.abc.MetaPathFinder):
    owners = packages_distributions()
    def find_spec(self, name, path=None, target=None):
        found = self.owners.get(name.split(".")[0], [])
        owners = {{owner.lower().replace("_", "-").replace(".", "-") for owner in found}}
        if owners and not owners & {allowed!r}:
            raise ImportError(f"{{name}} of {{owners}} is not in that image")

sys.meta_path.insert(0, Refuse())
for name in {gpu_imports.SERVING!r}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
