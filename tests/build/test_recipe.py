"""Recipes: what is unknown, missing or contradictory is refused by name."""

from pathlib import Path

import pytest

from support import ROOT
from trireme_build.errors import RecipeError
from trireme_build.quantization import Quantization
from trireme_build.recipe import CompileEngine, CompileOpenVino, read_recipe

GPU = 'engine = "tensorrt_llm_engine"\nimage = "i"\nsm = 90\nmax_batch_size = 8\nmax_input_len = 512\n'
GPU += "max_seq_len = 1024\nmax_num_tokens = 2048\n"

GOOD = {
    "source": 'checkpoint = "c"',
    "quantize": 'to = "fp8"\ntasks = "reference"',
    "verify": 'texts = "t.txt"\nmax_kl = 0.1\nmin_top1 = 0.9\nmax_perplexity_increase = 0.1',
    "compile": 'engine = "openvino"',
}


def write(folder: Path, **tables: str | None) -> Path:
    """A recipe of GOOD with some tables changed, or left out."""
    texts = {**GOOD, **tables}
    path = folder / "mine.toml"
    path.write_text("\n\n".join(f"[{name}]\n{text}" for name, text in texts.items() if text is not None))
    return path


def test_a_recipe_has_the_name_of_its_file_and_paths_from_there(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path))
    assert recipe.name == "mine"
    assert recipe.source.checkpoint == tmp_path / "c"
    assert recipe.verify.texts == tmp_path / "t.txt"
    assert recipe.quantize is not None
    assert recipe.quantize.to is Quantization.FP8
    assert isinstance(recipe.compile, CompileOpenVino)
    assert recipe.publish.model == "tensorrt_llm"


@pytest.mark.parametrize("path", sorted((ROOT / "build" / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_committed_recipes_can_be_read(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.source.checkpoint.is_dir()
    assert recipe.values()["name"] == path.stem


def test_an_engine_recipe_names_its_target(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, export='formats = ["huggingface", "tensorrt_llm"]', compile=GPU))
    assert isinstance(recipe.compile, CompileEngine)
    assert recipe.compile.target.max_seq_len == 1024


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"source": 'checkpoint = "c"\nmodel = "x"'}, "the key source.model is unknown"),
        ({"extra": "a = 1"}, "the key extra is unknown"),
        ({"source": None}, "source is missing"),
        ({"source": "checkpoint = 3"}, "source.checkpoint is 3: input is not a valid path"),
        ({"quantize": 'to = "fp16"\ntasks = "reference"'}, "quantize.to is 'fp16': input should be 'bf16', 'fp8'"),
        ({"quantize": 'to = "fp8"'}, "quantize: neither texts nor tasks given; fp8 needs one"),
        (
            {"quantize": 'to = "fp8"\ntasks = "reference"\ntexts = "t"'},
            "quantize: texts and tasks given; fp8 needs one",
        ),
        ({"quantize": 'to = "bf16"\nblocks = 3'}, "quantize: blocks has no use: bf16 is not calibrated"),
        ({"quantize": 'to = "fp8"\ntasks = "reference"\nblocks = 0'}, "quantize.blocks is 0: input should be greater"),
        ({"quantize": 'to = "fp8"\ntasks = "reference"\nblocks = "8"'}, "quantize.blocks is '8'"),
        ({"quantize": 'to = "fp8"\ntasks = "reference"\nseed = true'}, "quantize.seed is True"),
        ({"verify": 'texts = "t"\nmax_kl = 0.1\nmin_top1 = 0.9'}, "verify.max_perplexity_increase is missing"),
        (
            {"verify": "max_kl = 0.1\nmin_top1 = 0.9\nmax_perplexity_increase = 0.1"},
            "verify: neither tasks nor texts given",
        ),
        ({"verify": GOOD["verify"] + "\nmin_exact_match = 0.9"}, "min_exact_match and max_answers need tasks"),
        ({"verify": GOOD["verify"] + '\ntasks = "x"'}, "min_exact_match is missing; tasks need it"),
        ({"verify": GOOD["verify"].replace("0.9", "90.0")}, "verify.min_top1 is 90.0: input should be less than"),
        (
            {"compile": 'engine = "llama.cpp"'},
            "compile.engine is 'llama.cpp'; known are 'openvino', 'tensorrt_llm'",
        ),
        ({"compile": 'engine = "openvino"\nsm = 90'}, "the key compile.sm is unknown"),
        ({"compile": 'engine = "openvino"\nweights = "int8"'}, "compile.weights is int8, but quantize.to is fp8"),
        ({"compile": 'engine = "openvino"\nweights = "int3"', "quantize": None}, "compile.weights is 'int3'"),
        ({"quantize": None, "export": ""}, "export has no use without quantize"),
        ({"export": 'formats = ["tensorrt_llm"]'}, "formats must hold 'huggingface'"),
        ({"export": "tensor_parallel = 2"}, "tensor_parallel shards a TensorRT-LLM checkpoint"),
        ({"quantize": None, "compile": 'engine = "tensorrt_llm"\nsm = 90'}, "quantize is missing; tensorrt_llm needs"),
        ({"compile": 'engine = "tensorrt_llm"\nsm = 80'}, "compile.sm is 80; fp8 runs from SM 89 on"),
        (
            {"quantize": 'to = "nvfp4"\ntasks = "reference"', "compile": 'engine = "tensorrt_llm"\nsm = 90'},
            "compile.sm is 90; nvfp4 runs from SM 100 on",
        ),
        ({"compile": GPU}, "export.formats has no 'tensorrt_llm'"),
        (
            {"export": 'formats = ["huggingface", "tensorrt_llm"]\ntensor_parallel = 2', "compile": GPU},
            "export.tensor_parallel is 2; the engine tensorrt_llm_engine is served by one rank",
        ),
        (
            {"export": 'formats = ["huggingface", "tensorrt_llm"]', "compile": GPU.replace("512", "4096")},
            "max_input_len is 4096; at most max_seq_len, 1024, is allowed",
        ),
        ({"publish": 'model = "preprocessing"'}, "publish.model is 'preprocessing'"),
        ({"publish": 'tokenizer = "yes"'}, "publish.tokenizer is 'yes'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path: Path, tables: dict[str, str | None], words: str) -> None:
    with pytest.raises(RecipeError) as refused:
        read_recipe(write(tmp_path, **tables))
    assert str(refused.value).startswith(f"{tmp_path / 'mine.toml'}: ")
    assert words in str(refused.value)


def test_a_name_of_its_own_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(f'name = "other"\n{path.read_text()}')
    with pytest.raises(RecipeError, match="called what its file is called"):
        read_recipe(path)


@pytest.mark.parametrize("text", ["[source", "a = \udcff"])
def test_what_is_no_toml_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RecipeError, match="cannot be read"):
        read_recipe(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.toml: cannot be read"):
        read_recipe(tmp_path / "nowhere.toml")
