"""`trireme render`: the repositories as another machine serves them, in a folder of their own."""

import argparse
import shlex
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format

import trireme_runtime
from trireme_runtime.checkout import version_folders
from trireme_runtime.manifest import verify_manifest

from . import profiles
from .embedded import ADDRESS, CONTROL_APIS, CONTROL_HEADER
from .errors import OperatorError
from .layout import DEFAULT_ENGINE, Layout, engine_of

#: A tritonserver with TensorRT-LLM 1.2.1 (tensorrtllm_backend), CPython 3.12.
IMAGE = "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"

#: The model that computes; its versions are for one engine each.
_ENGINE_MODEL = "tensorrt_llm"


@dataclass
class Rendered:
    """What was written. without_version: the engine models that have none yet."""

    layout: Layout
    models: list[str] = field(default_factory=list)
    without_version: list[str] = field(default_factory=list)


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "render",
        help="write the repositories as another machine serves them",
        description="Writes model_repository/ and ensembles/ under OUT, changed as the profile says, and "
        "tells how to serve them. Versions of the engine model that are for another engine are left out.",
    )
    parser.add_argument(
        "profile", choices=profiles.PROFILES, help="cpu, or TensorRT-LLM: its LLM API or engine folders"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder that is not there yet, or empty")
    parser.set_defaults(run=run)


def render(layout: Layout, profile: str, out: Path) -> Rendered:
    """Write the repositories of `layout` under `out`, whole or not at all.

    Raises OperatorError if `out` holds anything, ManifestError for a version that is not what its manifest says.
    """
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OperatorError(f"{out} is there and not empty; name a folder that is not")
    if any(out.is_relative_to(repository) for repository in layout.repositories):
        raise OperatorError(f"{out} is inside a model repository; name a folder outside")
    out.parent.mkdir(parents=True, exist_ok=True)
    rendered = Rendered(Layout(out))
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as staging_name:
        staging = Path(staging_name) / out.name
        for repository in layout.repositories:
            for model in sorted(path for path in repository.iterdir() if path.is_dir()):
                _render_model(layout, profile, model, staging, rendered)
        if out.exists():
            out.rmdir()
        staging.rename(out)
    return rendered


def _render_model(layout: Layout, profile: str, model: Path, staging: Path, rendered: Rendered) -> None:
    target = staging / model.parent.name / model.name
    target.mkdir(parents=True)
    config = profiles.parse(model / "config.pbtxt")
    config.name = config.name or model.name
    if profiles.apply(profile, config):
        text = text_format.MessageToString(config, as_utf8=True)
        (target / "config.pbtxt").write_text(f"# Rendered for the profile {profile}.\n{text}", encoding="utf-8")
    else:
        shutil.copyfile(model / "config.pbtxt", target / "config.pbtxt")
    is_engine = profiles.base_name(model.name) == _ENGINE_MODEL
    engine = config.parameters["engine"].string_value if is_engine else ""
    copied = 0
    for version in version_folders(model):
        if is_engine and engine_of(version) != engine:
            continue
        _copy_version(layout, version, target / version.name, staging)
        copied += 1
    rendered.models.append(model.name)
    if not copied:
        rendered.without_version.append(model.name)


def _copy_version(layout: Layout, version: Path, target: Path, staging: Path) -> None:
    if (version / "manifest.json").is_file():
        source = verify_manifest(version).get("source")
        # The engine is made from it there. One that lies in the checkout is named relative to its root: it comes along.
        checkpoint = Path(source["checkpoint"]) if source and engine_of(version) == DEFAULT_ENGINE else None
        if checkpoint is not None and not checkpoint.is_absolute() and not (staging / checkpoint).exists():
            shutil.copytree(layout.root / checkpoint, staging / checkpoint, ignore=_ignored)
    shutil.copytree(version, target, ignore=_ignored)


_ignored = shutil.ignore_patterns("__pycache__")


def serve_command(layout: Layout, name: str = "trireme") -> list[str]:
    """The command that serves a rendered root in NVIDIA's container `name`: the folders keep their paths inside.

    As `trireme serve`: on the loopback address only, the control APIs behind the key, which a shell has to fill in.
    """
    code = Path(trireme_runtime.__file__).resolve().parents[1]
    key = f"$(cat {shlex.quote(str(layout.state / 'control.key'))})"
    restricted = f"{','.join(CONTROL_APIS)}:{CONTROL_HEADER}={key}"
    return [
        *("docker", "run", "--rm", "--name", name, "--gpus", "all", "--network", "host", "--shm-size", "2g"),
        *("--volume", f"{layout.root}:{layout.root}:ro"),
        *("--volume", f"{code}:{code}:ro"),
        *("--env", f"PYTHONPATH={code}"),
        *("--env", "PYTHONDONTWRITEBYTECODE=1"),
        *("--env", "HF_HUB_OFFLINE=1"),
        *("--env", "TRIREME_GRPC=127.0.0.1:8001"),
        *("--env", "TRIREME_SHM_PREFIX=trireme"),
        *(IMAGE, "tritonserver"),
        *(f"--model-repository={repository}" for repository in layout.repositories),
        "--backend-config=python,shm-region-prefix-name=trireme",
        "--disable-auto-complete-config",
        "--model-control-mode=explicit",
        "--load-model=*",
        *(f"--{protocol}-address={ADDRESS}" for protocol in ("http", "grpc", "metrics")),
        f"--http-restricted-api={restricted}",
        f"--grpc-restricted-protocol={restricted}",
    ]


def next_steps(rendered: Rendered, profile: str) -> str:
    """What to type, for whoever has rendered a profile."""
    root = rendered.layout.root
    named = shlex.quote(str(root))
    lines = [f"Rendered {len(rendered.models)} models for the profile {profile} into {root}."]
    if profile == "cpu":
        return "\n".join([*lines, "Serve it:", f"  TRIREME_ROOT={named} trireme serve"])
    for model in rendered.without_version:
        lines.append(f"{model} has no version for this engine yet. Publish one, from a recipe, where there is a GPU:")
        lines.append(f"  TRIREME_ROOT={named} trireme build RECIPE")
    lines.append("Then serve both repositories in NVIDIA's container:")
    lines.append("  " + shell_line(serve_command(rendered.layout)))
    lines.append("(Never run by this project. The image must hold transformers, jinja2, tritonclient and grpcio.)")
    return "\n".join(lines)


def shell_line(command: list[str]) -> str:
    """One option a line, as it can be pasted."""
    lines: list[list[str]] = [[]]
    for word in command:
        if word.startswith("--") or word in (IMAGE, "tritonserver"):
            lines.append([])
        lines[-1].append(f'"{word}"' if "$(" in word else shlex.quote(word))
    return " \\\n    ".join(" ".join(line) for line in lines)


def run(arguments: argparse.Namespace) -> int:
    """Render a profile; 0 if it is there."""
    from trireme_runtime.manifest import ManifestError

    try:
        rendered = render(Layout.find(), arguments.profile, arguments.out)
    except ManifestError as error:
        raise OperatorError(f"a version is not what its manifest says: {error}") from error
    if arguments.profile != "cpu":
        rendered.layout.control_key()
    print(next_steps(rendered, arguments.profile))
    return 0
