"""Recipes: what `trireme build` makes of a checkpoint, as a TOML file. Every key that does nothing is refused."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trireme_runtime.toml_file import TomlError, read_toml, words

from .errors import RecipeError
from .matrices import WeightFormat
from .quantization import Quantization
from .tensorrt_llm_command import TensorRtLlmTarget, check

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"

_Count = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
_Share = Annotated[float, Field(strict=True, ge=0, le=1)]
_Amount = Annotated[float, Field(strict=True, ge=0)]
_Sm = Annotated[int, Field(strict=True, ge=70, le=200)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Table):
    """The checkpoint: a Hugging Face folder of safetensors."""

    checkpoint: Path


class QuantizeTable(_Table):
    """What the weights become, and the texts that show the ranges of the activations.

    texts: a file, one text a line; tasks: generated conversations of the reference tasks; one of the two.
    blocks of `length` tokens are run, `batch` at a time.
    """

    to: Quantization
    texts: Path | None = None
    tasks: Literal["reference"] | None = None
    blocks: _Count = 32
    length: _Count = 256
    batch: _Count = 8
    seed: Annotated[int, Field(strict=True, ge=0)] = 0

    @model_validator(mode="after")
    def _one_calibration(self) -> "QuantizeTable":
        given = [key for key in ("texts", "tasks") if getattr(self, key) is not None]
        if self.to is Quantization.BF16:
            useless = sorted({"texts", "tasks", "blocks", "length", "batch", "seed"} & self.model_fields_set)
            if useless:
                raise ValueError(f"{useless[0]} has no use: bf16 is not calibrated")
        elif len(given) != 1:
            raise ValueError(f"{' and '.join(given) or 'neither texts nor tasks'} given; {self.to.value} needs one")
        return self


class Export(_Table):
    """What the quantized checkpoint is written as. tensor_parallel: ranks of the TensorRT-LLM checkpoint."""

    formats: Annotated[tuple[Literal["huggingface", "tensorrt_llm"], ...], Field(min_length=1)] = ("huggingface",)
    tensor_parallel: Annotated[int, Field(strict=True, ge=1, le=64)] = 1

    @model_validator(mode="after")
    def _shards_of_something(self) -> "Export":
        if self.tensor_parallel > 1 and "tensorrt_llm" not in self.formats:
            raise ValueError("tensor_parallel shards a TensorRT-LLM checkpoint; add 'tensorrt_llm' to formats")
        if "huggingface" not in self.formats:
            raise ValueError("formats must hold 'huggingface': the quantized checkpoint is judged by it")
        return self


class Verify(_Table):
    """What must hold before anything is published.

    tasks: JSON lines with task, prompt and answer, of which at most max_answers are asked, evenly spread. texts: a
    file, one text a line. KL, top-1 and perplexity are taken over max_texts of the texts, or of the tasks'
    conversations where there are none. max_kl in nats a token; min_top1 and min_exact_match are shares;
    max_perplexity_increase is a share of the source's perplexity.
    """

    tasks: Path | None = None
    texts: Path | None = None
    max_answers: _Count = 125
    max_texts: _Count = 64
    max_kl: _Amount
    min_top1: _Share
    max_perplexity_increase: _Amount
    min_exact_match: _Share | None = None

    @model_validator(mode="after")
    def _something_to_judge_by(self) -> "Verify":
        if self.tasks is None and self.texts is None:
            raise ValueError("neither tasks nor texts given; one is needed")
        if self.tasks is None and {"min_exact_match", "max_answers"} & self.model_fields_set:
            raise ValueError("min_exact_match and max_answers need tasks")
        if self.tasks is not None and self.min_exact_match is None:
            raise ValueError("min_exact_match is missing; tasks need it")
        return self


class CompileOpenVino(_Table):
    """An engine folder for OpenVINO on the CPU. weights: what is rounded that is not quantized."""

    engine: Literal["openvino"]
    weights: WeightFormat = WeightFormat.F32


class CompileLlmApi(_Table):
    """The quantized checkpoint as it is, for TensorRT-LLM's LLM API on a GPU of `sm`, 90 for 9.0."""

    engine: Literal["tensorrt_llm"]
    sm: _Sm


class CompileEngine(_Table):
    """An engine folder, by trtllm-build inside the container `image`; see TensorRtLlmTarget."""

    engine: Literal["tensorrt_llm_engine"]
    image: Annotated[str, Field(min_length=1)]
    sm: _Sm
    max_batch_size: _Count
    max_input_len: _Count
    max_seq_len: _Count
    max_num_tokens: _Count
    max_beam_width: _Count = 1
    tokens_per_block: _Count = 32
    workers: _Count = 1

    @property
    def target(self) -> TensorRtLlmTarget:
        """What trtllm-build is told."""
        return TensorRtLlmTarget(**self.model_dump(exclude={"engine"}))


class Publish(_Table):
    """The model of the repository that gets the version.

    tokenizer: whether the LLM's preprocessing and postprocessing get versions with the checkpoint's tokenizer too.
    """

    model: Annotated[str, Field(pattern=r"^([a-z][a-z0-9_]*_)?tensorrt_llm$")] = "tensorrt_llm"
    tokenizer: Annotated[bool, Field(strict=True)] = False


class Recipe(_Table):
    """A whole recipe; paths are absolute. Its name is that of its file."""

    name: Annotated[str, Field(pattern=f"^{_NAME}$")]
    source: Source
    quantize: QuantizeTable | None = None
    export: Export | None = None
    verify: Verify
    compile: Annotated[CompileOpenVino | CompileLlmApi | CompileEngine, Field(discriminator="engine")]
    publish: Publish = Publish()

    @model_validator(mode="after")
    def _tables_agree(self) -> "Recipe":
        if self.quantize is None and self.export is not None:
            raise ValueError('export has no use without quantize; to = "bf16" exports without quantizing')
        if isinstance(self.compile, CompileOpenVino):
            if self.quantize is not None and "weights" in self.compile.model_fields_set:
                raise ValueError(
                    f"compile.weights is {self.compile.weights.value}, but quantize.to is {self.quantize.to.value}: "
                    "what it writes is served as it is; leave one of them out"
                )
            return self
        if self.quantize is None:
            raise ValueError(f'quantize is missing; {self.compile.engine} needs it (to = "bf16" at least)')
        if isinstance(self.compile, CompileEngine):
            if "tensorrt_llm" not in self.exported.formats:
                raise ValueError("export.formats has no 'tensorrt_llm'; the engine tensorrt_llm_engine needs it")
            if self.exported.tensor_parallel > 1:
                raise ValueError(
                    f"export.tensor_parallel is {self.exported.tensor_parallel}; the engine tensorrt_llm_engine is "
                    "served by one rank"
                )
            check(self.compile.target, self.quantize.to.value)
        needed = self.quantize.to.lowest_sm
        if self.compile.sm < needed:
            raise ValueError(f"compile.sm is {self.compile.sm}; {self.quantize.to.value} runs from SM {needed} on")
        return self

    @property
    def exported(self) -> Export:
        """The table export, or what it is where there is none."""
        return self.export or Export()

    def values(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return self.model_dump(mode="json")


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; relative paths in it start at its folder. Raises RecipeError naming file, key and value."""
    try:
        values = read_toml(path)
    except TomlError as error:
        raise RecipeError(str(error)) from error
    if "name" in values:
        raise RecipeError(f"{path}: name: a recipe is called what its file is called; leave it out")
    if not re.fullmatch(_NAME, path.stem):
        raise RecipeError(
            f"{path}: the name of a recipe is up to 64 letters, digits, '.', '_' and '-', a letter or digit first"
        )
    _make_absolute(values, path.resolve().parent)
    try:
        return Recipe.model_validate({**values, "name": path.stem})
    except ValidationError as error:
        raise RecipeError(f"{path}: {'; '.join(_words(detail) for detail in error.errors())}") from None


def _make_absolute(values: dict[str, Any], folder: Path) -> None:
    for table, keys in (("source", ("checkpoint",)), ("quantize", ("texts",)), ("verify", ("tasks", "texts"))):
        inside = values.get(table)
        if isinstance(inside, dict):
            for key in keys:
                if isinstance(inside.get(key), str):
                    if not inside[key]:
                        raise RecipeError(f"{table}.{key} is empty; a path is needed")
                    # Not resolved: what lies in the checkout keeps its name there.
                    inside[key] = os.path.normpath(folder / Path(inside[key]).expanduser())


def _words(detail: Any) -> str:
    # Between the table compile and its keys stands which of the three it is.
    parts = [str(part) for part in detail["loc"]]
    place = ".".join(parts[:1] + parts[2:] if parts[:1] == ["compile"] and len(parts) > 2 else parts)
    if detail["type"] == "union_tag_invalid":
        return f"{place}.engine is {detail['ctx']['tag']!r}; known are {detail['ctx']['expected_tags']}"
    return words(detail, place)
