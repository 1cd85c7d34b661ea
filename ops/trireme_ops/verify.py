"""`trireme verify`: whether a version, or an engine folder, is what it should be."""

import argparse
import json
from pathlib import Path
from typing import Any

from trireme_runtime.engines.tensorrt_llm_folder import EngineFolderError, read_engine_folder
from trireme_runtime.manifest import MANIFEST, SIGNATURE, ManifestError
from trireme_runtime.versions import key_of_environment, verify_version

from .errors import OperatorError


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "verify",
        help="check versions and engine folders",
        description="Compares every file of a version with its manifest, checks its signature, and looks into engine "
        "folders of TensorRT-LLM without loading them.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a version folder, or an engine folder")
    parser.add_argument("--key", type=Path, metavar="PUB", help="the public key that it must be signed for")
    parser.add_argument("--sm", type=int, help="the GPU that an engine is to run on: 89, 90, 100 ...")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check each; 0 if all are what they should be. Raises OperatorError naming the first that is not."""
    for path in arguments.paths:
        if not path.is_dir():
            raise OperatorError(f"{path}: no such folder")
        try:
            for line in _findings(path, arguments.key or key_of_environment(), arguments.sm):
                print(f"{path}: {line}")
        except (ManifestError, EngineFolderError) as error:
            raise OperatorError(str(error)) from error
    return 0


def _findings(path: Path, key: Path | None, sm: int | None) -> list[str]:
    findings = []
    if (path / MANIFEST).is_file():
        manifest = verify_version(path, key)
        findings.append(f"{len(manifest['files'])} files as the manifest says")
        if key is not None:
            findings.append(f"signed for {key}")
        elif (path / SIGNATURE).is_file():
            findings.append("signed; name the public key with --key to check it")
        else:
            findings.append("not signed")
    engine = next((folder for folder in (path, path / "engine") if _is_tensorrt_llm(folder)), None)
    if engine is not None:
        found = read_engine_folder(engine, sm)
        precision = found.quant_algo or found.dtype
        findings.append(
            f"an engine of TensorRT-LLM {found.tensorrt_llm_version} (TensorRT {found.tensorrt_version}), {precision}, "
            f"{found.world_size} ranks, batch {found.max_batch_size}, {found.max_seq_len} tokens"
        )
    if not findings:
        raise OperatorError(f"{path}: has no {MANIFEST}, and is no engine folder of TensorRT-LLM")
    return findings


def _is_tensorrt_llm(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise OperatorError(f"{folder / 'config.json'}: cannot be read: {error}") from error
    return isinstance(config, dict) and bool({"pretrained_config", "build_config"} & config.keys())
