"""Further versions of the reference LLM, made in seconds, for releases in tests.

Each function publishes into a checkout that `checkout` made, and says which version of each model belong together, by
the models' names. What takes time to make is made once a process and copied.
"""

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from support import CHECKPOINT, ROOT
from trireme_build.engine_folder import ensure_engine, write_engine
from trireme_build.openvino_files import save_model
from trireme_build.permuted_checkpoint import EMBEDDINGS, copy_checkpoint, permute_vocabulary, renumber_tokens
from trireme_build.publish import Candidate, publish
from trireme_build.publish_tokenizer import publish_tokenizer
from trireme_ops.bench.root import NullModel, copy_repositories, set_parameters
from trireme_ops.layout import Layout
from trireme_runtime.checkout import version_folders
from trireme_runtime.manifest import write_manifest
from trireme_runtime.tokenizing import load_tokenizer

Versions = dict[str, int]

CONTEXT_TOKENS = 2048

#: The first ids of the reference tokenizer are its special tokens.
SPECIAL_IDS = 6

#: Layers of the checkpoint of `slow` for each of the reference's; those that are added change nothing.
SLOW_FACTOR = 5

MODELS = ("preprocessing", "tensorrt_llm", "postprocessing", "ensemble_unary")


@functools.cache
def _cache() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="trireme-built-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _once(make: Callable[[Path], None]) -> Callable[[], Path]:
    """What `make` writes into an empty folder, once."""

    @functools.cache
    def made() -> Path:
        folder = _cache() / make.__name__.lstrip("_")
        folder.mkdir()
        make(folder)
        return folder

    return made


# Checkpoints and engines ------------------------------------------------------------------------------------------


def _vocabulary() -> dict[str, int]:
    """The reference tokenizer's."""
    found = json.loads((CHECKPOINT / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert isinstance(found, dict)
    return found


@_once
def reference_engine(folder: Path) -> None:
    """The engine folder of version 1, with its manifest."""
    layout = copy_repositories(Layout(ROOT), folder / "root", {})
    shutil.copytree(CHECKPOINT, layout.root / "build" / "checkpoints" / CHECKPOINT.name)
    version = layout.root / "model_repository" / "tensorrt_llm" / "1"
    ensure_engine(version, layout.root)
    shutil.move(version / "engine", folder / "engine")
    shutil.rmtree(layout.root)


@_once
def permuted_checkpoint(folder: Path) -> None:
    """The reference checkpoint with the ids of all ordinary tokens permuted: the same model, written down otherwise."""
    permute_vocabulary(CHECKPOINT, folder, SPECIAL_IDS)


@_once
def wrong_checkpoint(folder: Path) -> None:
    """The reference checkpoint with the rows of the digits in reverse: every answer with a number in it is wrong."""
    digits = [_vocabulary()[str(digit)] for digit in range(10)]

    def weights(tensors: dict[str, Any]) -> dict[str, Any]:
        rows = tensors[EMBEDDINGS].copy()
        rows[digits] = tensors[EMBEDDINGS][digits[::-1]]
        return {**tensors, EMBEDDINGS: rows}

    copy_checkpoint(CHECKPOINT, folder, weights)


@_once
def slow_checkpoint(folder: Path) -> None:
    """The reference checkpoint with more layers, which add zero: the same answers for SLOW_FACTOR times the work."""
    path = folder / "config.json"

    def weights(tensors: dict[str, Any]) -> dict[str, Any]:
        layers = json.loads((CHECKPOINT / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
        more = {}
        for layer in range(layers, SLOW_FACTOR * layers):
            for name, tensor in tensors.items():
                if name.startswith("model.layers.0."):
                    added = name.endswith(("o_proj.weight", "down_proj.weight"))
                    more[name.replace(".0.", f".{layer}.", 1)] = np.zeros_like(tensor) if added else tensor
        return {**tensors, **more}

    copy_checkpoint(CHECKPOINT, folder, weights)
    config = json.loads(path.read_text(encoding="utf-8"))
    config["num_hidden_layers"] *= SLOW_FACTOR
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")


@_once
def permuted_engine(folder: Path) -> None:
    write_engine(permuted_checkpoint(), folder, "f32")


@_once
def wrong_engine(folder: Path) -> None:
    write_engine(wrong_checkpoint(), folder, "f32")


@_once
def slow_engine(folder: Path) -> None:
    write_engine(slow_checkpoint(), folder, "f32")


@_once
def unloadable_engine(folder: Path) -> None:
    """The reference engine with a graph that ends in the middle."""
    _copy_engine(folder)
    path = folder / "openvino_model.xml"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@_once
def crashing_engine(folder: Path) -> None:
    """The reference engine with a step in its graph that fits no input: seen only when it is computed."""
    _copy_engine(folder)
    model = ov.Core().read_model(folder / "openvino_model.xml")
    (result,) = model.get_results()
    logits = result.input_value(0)
    # The number of rows is not known before a request is there, and is never 0 modulo 7919.
    apart = ops.reshape(logits, np.array([7919, -1, 512]), special_zero=False)
    back = ops.reshape(apart, np.array([1, -1, 512]), special_zero=False)
    back.output(0).set_names({"logits"})
    logits.set_names({"whole_logits"})
    result.input(0).replace_source_output(back.output(0))
    model.validate_nodes_and_infer_types()
    save_model(model, folder / "changed.xml")
    for suffix in ("xml", "bin"):
        (folder / f"changed.{suffix}").replace(folder / f"openvino_model.{suffix}")


def _copy_engine(folder: Path) -> None:
    ignore = shutil.ignore_patterns("manifest.json")
    shutil.copytree(reference_engine() / "engine", folder, dirs_exist_ok=True, ignore=ignore)


# Versions ---------------------------------------------------------------------------------------------------------


def checkout(target: Path, settings: Mapping[str, str] | None = None) -> Layout:
    """A checkout under the new folder `target` with version 1 of each model, its engine and its checkpoint.

    settings: parameters of `tensorrt_llm`.
    """
    layout = copy_repositories(Layout(ROOT), target, settings or {})
    shutil.copytree(CHECKPOINT, layout.root / "build" / "checkpoints" / CHECKPOINT.name)
    shutil.copytree(reference_engine() / "engine", layout.root / "model_repository" / "tensorrt_llm" / "1" / "engine")
    return layout


def first(layout: Layout) -> Versions:
    """The committed versions, 1 of each model."""
    return dict.fromkeys(MODELS, 1)


def _publish(layout: Layout, name: str, engine: Path, checkpoint: Path = CHECKPOINT, adapter: str = "openvino") -> int:
    """Publish an engine; the number of its version."""
    origin = {"recipe": f"test {name}", "engine": adapter, "build": {"digest": name}}
    candidate = Candidate(
        layout.root, "tensorrt_llm", adapter, engine, checkpoint, CONTEXT_TOKENS, origin, with_tokenizer=True
    )
    return int(publish(candidate).folder.name)


def _publish_tokenizers(layout: Layout, checkpoint: Path) -> Versions:
    return {
        model: int(publish_tokenizer(layout.root, model, checkpoint, CONTEXT_TOKENS).folder.name)
        for model in ("preprocessing", "postprocessing")
    }


def permuted(layout: Layout) -> Versions:
    """Another tokenizer and the engine for it: exactly the reference's answers, unless they are mixed."""
    engine = _publish(layout, "permuted", permuted_engine(), permuted_checkpoint())
    return {**first(layout), **_publish_tokenizers(layout, permuted_checkpoint()), "tensorrt_llm": engine}


def wrong(layout: Layout) -> Versions:
    """An engine whose answers are wrong where there is a digit in prompt or answer, and the reference's elsewhere."""
    return {**first(layout), "tensorrt_llm": _publish(layout, "wrong", wrong_engine())}


def unloadable(layout: Layout) -> Versions:
    """An engine that is what its manifest says, and cannot be loaded."""
    return {**first(layout), "tensorrt_llm": _publish(layout, "unloadable", unloadable_engine())}


def crashing(layout: Layout) -> Versions:
    """An engine that loads, and whose process dies at the first request."""
    return {**first(layout), "tensorrt_llm": _publish(layout, "crashing", crashing_engine())}


def slow(layout: Layout) -> Versions:
    """An engine with the reference's answers that computes SLOW_FACTOR times as many layers."""
    return {**first(layout), "tensorrt_llm": _publish(layout, "slow", slow_engine())}


def null_pair(layout: Layout, steps_per_s: float = 0.0, **more: Any) -> tuple[Versions, Versions]:
    """Two releases of the null engine with tokenizers of their own, in the place of version 1 and as version 2.

    The first answers in NULL_TEXTS[1, 1], the second in NULL_TEXTS[2, 2]; engine a with postprocessing b would in
    NULL_TEXTS[a, b]. more: of the engines' config.json.
    """
    first_ids, second_ids = (_ids(NULL_TEXTS[1, 1]), _ids(NULL_TEXTS[2, 1]))
    model = layout.root / "model_repository" / "tensorrt_llm"
    set_parameters(model, {"engine": "null"})
    (version,) = version_folders(model)
    shutil.rmtree(version / "engine", ignore_errors=True)
    _null_model(first_ids, steps_per_s, more).write(version / "engine")
    write_manifest(version, {"model": model.name, "version": 1, "recipe": "test null", "engine": "null"})
    checkpoint = _null_checkpoint(layout.root.parent / f"{layout.root.name}-null-checkpoint")
    with tempfile.TemporaryDirectory() as name:
        engine = Path(name) / "engine"
        _null_model(second_ids, steps_per_s, more).write(engine)
        number = _publish(layout, "null", engine, checkpoint, "null")
    second = {**first(layout), **_publish_tokenizers(layout, checkpoint), "tensorrt_llm": number}
    return first(layout), second


#: The letters that answers of null engines are made of: (engine, postprocessing) of `null_pair`.
NULL_TEXTS = {(1, 1): "abcdefghij", (1, 2): "klmnopqrst", (2, 1): "0123456789", (2, 2): "ABCDEFGHIJ"}


def _ids(letters: str) -> list[int]:
    vocabulary = _vocabulary()
    return [vocabulary[letter] for letter in letters]


def _null_model(ids: list[int], steps_per_s: float, more: Mapping[str, Any]) -> NullModel:
    tokenizer = load_tokenizer(CHECKPOINT)
    silent = tuple(index for index in range(len(tokenizer)) if index not in ids)
    return replace(NullModel(len(tokenizer), silent, CONTEXT_TOKENS, steps_per_s), **more)


def _null_checkpoint(folder: Path) -> Path:
    """A checkpoint whose tokenizer has other letters for the ids of NULL_TEXTS."""
    shutil.copytree(CHECKPOINT, folder)
    vocabulary = _vocabulary()
    moved = {
        token: vocabulary[other]
        for engine in (1, 2)
        for token, other in zip(NULL_TEXTS[engine, 2], NULL_TEXTS[engine, 1], strict=True)
    }
    # Whatever stood there takes the ids that have become free.
    free = sorted({vocabulary[token] for token in moved} - set(moved.values()))
    homeless = sorted(token for token, old in vocabulary.items() if old in moved.values() and token not in moved)
    moved |= dict(zip(homeless, free, strict=True))
    renumber_tokens(folder, lambda token, old: moved.get(token, old))
    return folder
