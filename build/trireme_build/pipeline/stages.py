"""The stages of `trireme build`: inspect, quantize, export, verify, compile, evaluate, publish."""

import os
import shlex
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trireme_runtime.manifest import sha256_of

from ..checkpoint import DecoderShape, read_config
from ..engine_folder import CPU_TARGET, OPENVINO_TOOLS, write_engine
from ..errors import CheckpointError, MissingTool, RecipeError
from ..export import check_ranks
from ..inspection import inspect_checkpoint
from ..judging import Judge, describe
from ..matrices import WeightFormat
from ..progress import Progress
from ..publish import ENGINE_MODEL, TOKENIZING, Candidate, Published, check_target, publish
from ..publish_tokenizer import publish_tokenizer
from ..quantization import Quantization
from ..recipe import CompileEngine, CompileOpenVino, QuantizeTable, Recipe
from ..tokenizer_folder import TOKENIZER_FILES
from .build import Build, Stage, digest_of

#: Raised when what the stages write changes, so that older results are not taken for theirs.
_FORMAT = 1

_TORCH_TOOLS = ("torch", "transformers", "nvidia-modelopt", "safetensors")


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    return {name: version(name) for name in names}


def _needs_torch(what: str) -> None:
    try:
        import modelopt  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingTool(
            f"{what} needs {error.name}, of the extra `build`. Type: make setup-build, then "
            ".venv-build/bin/trireme build ..."
        ) from None


def _checkpoint(build: Build) -> Path:
    return build.recipe.source.checkpoint


def _shape(build: Build) -> DecoderShape:
    return DecoderShape.from_config(read_config(_checkpoint(build)))


def _exported(build: Build) -> Path:
    return build.folder_of("export") / "huggingface"


def _served(build: Build) -> Path:
    """The checkpoint that the engine is made of: what was exported, or the source itself."""
    return _exported(build) if build.recipe.quantize else _checkpoint(build)


def _quantization(recipe: Recipe) -> str:
    """How a manifest calls what the weights are stored as."""
    if recipe.quantize is not None:
        return recipe.quantize.to.value
    return recipe.compile.weights.value if isinstance(recipe.compile, CompileOpenVino) else "bf16"


# inspect ----------------------------------------------------------------------------------------------------------


def _inspect_inputs(build: Build) -> dict[str, Any]:
    checkpoint = _checkpoint(build)
    if not checkpoint.is_dir():
        raise CheckpointError(f"{checkpoint}: no such folder; a Hugging Face checkpoint folder is needed")
    return {"format": _FORMAT, "source": build.source}


def _inspect(build: Build, out: Path, progress: Progress) -> dict[str, Any]:
    found = inspect_checkpoint(_checkpoint(build))
    if build.recipe.quantize is not None and found.quantization != "f32":
        raise CheckpointError(
            f"{_checkpoint(build)}: is quantized already ({found.quantization}); leave the table quantize out"
        )
    kinds = ", ".join(f"{found.kv_bytes_per_token(kind) / 1024:g} KiB {kind}" for kind in ("f32", "bf16", "fp8"))
    summary = (
        f"{found.shape.family}, {found.parameters / 1e6:.1f} M parameters, {found.weight_bytes / 1e6:.1f} MB, "
        f"{found.shape.max_positions} tokens of context; KV cache a token: {kinds}"
    )
    return {"summary": summary, **found.figures()}


# quantize ---------------------------------------------------------------------------------------------------------


def _calibrates(recipe: Recipe) -> bool:
    return recipe.quantize is not None and recipe.quantize.to is not Quantization.BF16


def _table(build: Build) -> QuantizeTable:
    assert build.recipe.quantize is not None
    return build.recipe.quantize


def _quantize_inputs(build: Build) -> dict[str, Any]:
    _needs_torch("quantizing")
    table = _table(build)
    if table.texts is not None and not table.texts.is_file():
        raise CheckpointError(f"{table.texts}: no such file; quantize.texts names it")
    texts = {"texts": sha256_of(table.texts)} if table.texts else {}
    return {"format": _FORMAT, **table.model_dump(mode="json"), **texts, "tools": _versions(_TORCH_TOOLS)}


def _calibration_texts(table: QuantizeTable, checkpoint: Path) -> Iterator[str]:
    if table.texts is not None:
        with table.texts.open(encoding="utf-8") as file:
            yield from file
        return
    from transformers import AutoTokenizer

    from ..exact_match import conversation
    from ..reference.tasks import training_examples

    tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    for example in training_examples(table.seed):
        yield conversation(tokenizer, example)


def _quantize(build: Build, out: Path, progress: Progress) -> dict[str, Any]:
    from ..quantize import Calibration, calibrate

    table = _table(build)
    texts = _calibration_texts(table, _checkpoint(build))
    calibration = Calibration(texts, table.blocks, table.length, table.batch)
    calibrate(_checkpoint(build), out / "calibrated", table.to, calibration, table.seed, progress)
    length = min(table.length, _shape(build).max_positions)
    return {"summary": f"{table.to.value}, calibrated on {table.blocks} blocks of {length} tokens"}


# export -----------------------------------------------------------------------------------------------------------


def _calibrated(build: Build) -> Path:
    return build.folder_of("quantize") / "calibrated" if _calibrates(build.recipe) else _checkpoint(build)


def _export_inputs(build: Build) -> dict[str, Any]:
    _needs_torch("exporting")
    table = build.recipe.exported
    return {
        "format": _FORMAT,
        "to": _table(build).to.value,
        **table.model_dump(mode="json"),
        "tools": _versions(_TORCH_TOOLS),
    }


def _export(build: Build, out: Path, progress: Progress) -> dict[str, Any]:
    from ..export import export_huggingface, export_tensorrt_llm

    table, sizes = build.recipe.exported, []
    for number, kind in enumerate(table.formats):
        progress(number, len(table.formats))
        target = out / kind
        if kind == "huggingface":
            export_huggingface(_calibrated(build), _checkpoint(build), target)
        else:
            export_tensorrt_llm(_calibrated(build), _checkpoint(build), target, table.tensor_parallel)
        size = sum(path.stat().st_size for path in target.glob("*.safetensors"))
        ranks = f" in {table.tensor_parallel} ranks" if kind == "tensorrt_llm" else ""
        sizes.append(f"{kind} {size / 1e6:.1f} MB{ranks}")
    progress(len(table.formats), len(table.formats))
    return {"summary": ", ".join(sizes)}


# verify -----------------------------------------------------------------------------------------------------------


def _verify_inputs(build: Build) -> dict[str, Any]:
    _needs_torch("verifying")
    table = build.recipe.verify
    named = (("tasks", table.tasks), ("texts", table.texts))
    for key, path in named:
        if path is not None and not path.is_file():
            raise CheckpointError(f"{path}: no such file; verify.{key} names it")
    files = {key: sha256_of(path) for key, path in named if path}
    return {"format": _FORMAT, **table.model_dump(mode="json"), "files": files, "tools": _versions(_TORCH_TOOLS)}


def _judge(build: Build) -> Judge:
    return Judge(build.recipe.verify, _checkpoint(build), _shape(build).max_positions)


def _verify(build: Build, out: Path, progress: Progress) -> dict[str, Any]:
    from ..accuracy import as_float32_model, load_float32, torch_log_probs
    from ..exact_match import torch_answers
    from ..tensorrt_llm_checkpoint import TensorRtLlmWeights
    from ..verification import check_scales

    judge = _judge(build)
    check_scales(_exported(build), _table(build).to)
    source = torch_log_probs(load_float32(_checkpoint(build)))
    model = load_float32(_exported(build))
    accuracy = judge.accuracy(source, torch_log_probs(model), progress)
    right = judge.exact_match(
        lambda prompts, most, end_id, tell: torch_answers(model, judge.tokenizer, prompts, most, tell),
        progress,
    )
    judge.check("the exported checkpoint", accuracy, right)
    result = {"accuracy": {**accuracy.figures(), **right}}
    if "tensorrt_llm" in build.recipe.exported.formats:
        shape = _shape(build)
        weights = TensorRtLlmWeights(build.folder_of("export") / "tensorrt_llm", shape)
        model = as_float32_model(read_config(_checkpoint(build)), shape, weights)
        ranks = judge.accuracy(source, torch_log_probs(model), progress)
        judge.check("the TensorRT-LLM checkpoint", ranks, {})
        result["tensorrt_llm_accuracy"] = ranks.figures()
    return {"summary": describe(accuracy, right), **result}


# compile ----------------------------------------------------------------------------------------------------------


def _compile_inputs(build: Build) -> dict[str, Any]:
    tools = OPENVINO_TOOLS if isinstance(build.recipe.compile, CompileOpenVino) else ()
    return {"format": _FORMAT, **build.recipe.compile.model_dump(mode="json"), "tools": _versions(tools)}


def _compile(build: Build, out: Path, progress: Progress) -> dict[str, Any]:
    table, engine = build.recipe.compile, out / "engine"
    if isinstance(table, CompileOpenVino):
        engine.mkdir()
        write_engine(_served(build), engine, table.weights.value)
    elif isinstance(table, CompileEngine):
        from ..tensorrt_llm_command import compile_engine

        checkpoint = build.folder_of("export") / "tensorrt_llm"
        compile_engine(checkpoint, engine, table.target, _table(build).to.value, build.folder / "trtllm-build.log")
    else:
        # The LLM API compiles when it loads.
        _link_tree(_exported(build), engine)
    size = sum(path.stat().st_size for path in engine.rglob("*") if path.is_file())
    return {"summary": f"for {table.engine}, {size / 1e6:.1f} MB", "bytes": size}


def _link_tree(source: Path, target: Path) -> None:
    """A copy that takes no room where the file system can share files."""

    def link(first: str, second: str) -> None:
        try:
            os.link(first, second)
        except OSError:
            shutil.copyfile(first, second)

    shutil.copytree(source, target, copy_function=link)


# evaluate ---------------------------------------------------------------------------------------------------------


def _evaluate(build: Build, out: Path, progress: Progress) -> dict[str, Any]:
    from ..accuracy import load_float32, openvino_log_probs, torch_log_probs
    from ..exact_match import engine_answers

    judge, engine = _judge(build), build.folder_of("compile") / "engine"
    source = torch_log_probs(load_float32(_checkpoint(build)))
    accuracy = judge.accuracy(source, openvino_log_probs(engine), progress)
    right = judge.exact_match(
        lambda prompts, most, end_id, tell: engine_answers(engine, prompts, most, end_id, tell), progress
    )
    judge.check("the engine", accuracy, right)
    return {"summary": describe(accuracy, right), "accuracy": {**accuracy.figures(), **right}}


# publish ----------------------------------------------------------------------------------------------------------


def _origin(build: Build) -> dict[str, Any]:
    recipe, results = build.recipe, build.results
    table = recipe.compile
    cpu = isinstance(table, CompileOpenVino)
    judged = results.get("evaluate") or results.get("verify") or {}
    tools = _versions(OPENVINO_TOOLS if cpu else ())
    if recipe.quantize is not None:
        tools |= _versions(_TORCH_TOOLS)
    origin: dict[str, Any] = {
        "recipe": recipe.name,
        "engine": table.engine,
        "quantization": _quantization(recipe),
        "made_from": build.source,
        "target": CPU_TARGET if isinstance(table, CompileOpenVino) else f"SM {table.sm}",
        "tools": {"trireme": version("trireme"), **tools},
        "accuracy": judged.get("accuracy", {}),
        "build": {"digest": _digest(build), "recipe": recipe.values()},
    }
    if recipe.quantize is not None and "verify" in results:
        origin["exported_accuracy"] = results["verify"]["accuracy"]
    if isinstance(table, CompileOpenVino):
        origin["weights"] = table.weights.value
        origin["arithmetic"] = _cpu_arithmetic(recipe, table)
    return origin


def _cpu_arithmetic(recipe: Recipe, table: CompileOpenVino) -> str:
    if recipe.quantize is not None:
        return recipe.quantize.to.cpu_arithmetic
    if table.weights is WeightFormat.F32:
        return Quantization.BF16.cpu_arithmetic
    return (
        f"weights stored as {table.weights.value} codes, rounded to the nearest, multiplied out to float32; "
        "activations float32"
    )


def _digest(build: Build) -> str:
    """What a version is told apart by: its engine, how it was judged, and the tokenizer that is published with it."""
    stages = {stage: build.digests.get(stage) for stage in ("compile", "verify", "evaluate")}
    if not build.recipe.publish.tokenizer:
        return digest_of(stages)
    paths = [_checkpoint(build) / name for name in TOKENIZER_FILES]
    return digest_of({**stages, "tokenizer": {path.name: sha256_of(path) for path in paths if path.is_file()}})


def _candidate(build: Build) -> Candidate:
    return Candidate(
        root=build.root,
        model=build.recipe.publish.model,
        engine=build.recipe.compile.engine,
        engine_folder=build.folder_of("compile") / "engine",
        checkpoint=_checkpoint(build),
        context_tokens=_shape(build).max_positions,
        origin=_origin(build) if "compile" in build.digests else {},
        with_tokenizer=build.recipe.publish.tokenizer,
    )


def _publish(build: Build, out: Path, progress: Progress) -> dict[str, Any]:
    candidate = _candidate(build)
    # Before anything is published of what cannot be published whole.
    check_target(candidate)
    tokenizing = [candidate.model.replace(ENGINE_MODEL, part) for part in TOKENIZING if candidate.with_tokenizer]
    published = [
        publish_tokenizer(
            build.root, model, candidate.checkpoint, candidate.context_tokens, build.key, build.recipe.name
        )
        for model in tokenizing
    ]
    published.append(publish(candidate, build.key))
    return {
        "summary": "; ".join(_told(version, build.root) for version in published),
        "version": int(published[-1].folder.name),
        "versions": {version.folder.parent.name: int(version.folder.name) for version in published},
    }


def _told(published: Published, root: Path) -> str:
    told = str(published.folder.relative_to(root))
    if not published.new:
        told += ", published before"
    if published.newest != int(published.folder.name):
        told += f"; version {published.newest} is newer, and is what a server loads"
    return told


def _check_calibration(recipe: Recipe, shape: DecoderShape) -> None:
    table = recipe.quantize
    if table is None:
        return
    if "length" in table.model_fields_set and table.length > shape.max_positions:
        raise CheckpointError(f"quantize.length is {table.length}; the model's context is {shape.max_positions} tokens")
    if table.texts is not None:
        try:
            with table.texts.open(encoding="utf-8") as file:
                for _ in file:
                    pass
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{table.texts}: cannot be read: {error}; quantize.texts names it") from error


def _check_target(build: Build, out: Path, progress: Progress) -> dict[str, Any]:
    """Before hours of work: whether it can come to its end."""
    recipe, shape = build.recipe, _shape(build)
    check_target(_candidate(build))
    _check_calibration(recipe, shape)
    if "tensorrt_llm" in recipe.exported.formats:
        check_ranks(shape, recipe.exported.tensor_parallel)
    _judge(build)
    return {"summary": f"{build.recipe.publish.model} takes versions for {build.recipe.compile.engine}"}


def _has_quantize(recipe: Recipe) -> bool:
    return recipe.quantize is not None


def _always(recipe: Recipe) -> bool:
    return True


def _nothing(build: Build) -> dict[str, Any]:
    return {}


STAGES = (
    Stage("inspect", _always, _inspect_inputs, _inspect),
    Stage("target", _always, _nothing, _check_target, after=("inspect",), always=True),
    Stage("quantize", _calibrates, _quantize_inputs, _quantize, after=("inspect",)),
    Stage("export", _has_quantize, _export_inputs, _export, after=("inspect", "quantize")),
    Stage("verify", _has_quantize, _verify_inputs, _verify, after=("inspect", "export")),
    Stage("compile", _always, _compile_inputs, _compile, after=("inspect", "export")),
    Stage(
        "evaluate",
        lambda recipe: isinstance(recipe.compile, CompileOpenVino),
        _verify_inputs,
        _evaluate,
        after=("inspect", "compile"),
    ),
    Stage("publish", _always, _nothing, _publish, after=("compile", "verify", "evaluate"), always=True),
)


def print_command(build: Build) -> str:
    """How trtllm-build would be called on this machine. Raises RecipeError for a recipe that does not compile so."""
    from ..tensorrt_llm_command import command_here

    table = build.recipe.compile
    if not isinstance(table, CompileEngine):
        raise RecipeError(
            f"{build.recipe.name}: compile.engine is {table.engine}; only tensorrt_llm_engine is compiled"
        )
    checkpoint, engine = build.folder_of("export") / "tensorrt_llm", build.folder_of("compile") / "engine"
    return shlex.join(command_here(checkpoint, engine, table.target, _table(build).to.value))
