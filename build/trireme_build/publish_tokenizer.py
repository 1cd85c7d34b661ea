"""Publishes further versions of the models of an LLM that tokenize, with the tokenizer of a checkpoint."""

import tempfile
from importlib.metadata import version
from pathlib import Path

from trireme_runtime.checkout import version_folders
from trireme_runtime.manifest import ManifestError, read_manifest, sha256_of, write_manifest

from .engine_folder import source_of
from .errors import PublishError
from .publish import TOKENIZING, Published, publish_version
from .tokenizer_folder import copy_tokenizer

#: What a version's model.py is, by the model of the runtime that it names.
_MODEL_PY = {
    "preprocessing": '''"""Prompts to token ids: batched tokenization and the chat template."""

from trireme_runtime.models.preprocessing import TritonPythonModel

__all__ = ["TritonPythonModel"]
''',
    "postprocessing": '''"""Token ids to text: stateless detokenization of one chunk of a stream."""

from trireme_runtime.models.postprocessing import TritonPythonModel

__all__ = ["TritonPythonModel"]
''',
}

RECIPE = "trireme publish-tokenizer"


def publish_tokenizer(
    root: Path, model: str, checkpoint: Path, context_tokens: int, key: Path | None = None, recipe: str = RECIPE
) -> Published:
    """Publish a version of `model`, which tokenizes, with the tokenizer of `checkpoint`, signed where there is a `key`.

    context_tokens: the model's context, beyond which prompts are refused. recipe: what the manifest says of it. The
    newest version that has this tokenizer already is not published again. Raises PublishError for a model that is not
    there or does not tokenize, and ManifestError for a key that cannot sign.
    """
    part = next((part for part in TOKENIZING if model == part or model.endswith(f"_{part}")), None)
    folder = root / "model_repository" / model
    if part is None:
        raise PublishError(f"{model}: does not tokenize; {' and '.join(TOKENIZING)} do")
    if not (folder / "config.pbtxt").is_file():
        raise PublishError(f"{folder}: no such model; trireme add makes one for another LLM")
    if not (checkpoint / "tokenizer.json").is_file():
        raise PublishError(f"{checkpoint / 'tokenizer.json'}: missing; a fast tokenizer is needed")

    def fill(staging: Path, number: int) -> None:
        staging.mkdir()
        (staging / "model.py").write_text(_MODEL_PY[part], encoding="utf-8")
        copy_tokenizer(checkpoint, staging / "tokenizer", context_tokens)
        origin = {
            "recipe": recipe,
            "made_from": source_of(checkpoint, root),
            "tools": {"trireme": version("trireme")},
        }
        write_manifest(staging, {"model": model, "version": number, **origin})

    wanted = _tokenizer_files(checkpoint, context_tokens)
    return publish_version(root, model, lambda: _published_before(folder, wanted), fill, key)


def _tokenizer_files(checkpoint: Path, context_tokens: int) -> dict[str, str]:
    """What a version's manifest has of the tokenizer: the SHA-256 of its files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "tokenizer"
        copy_tokenizer(checkpoint, folder, context_tokens)
        return {f"tokenizer/{path.name}": sha256_of(path) for path in folder.iterdir()}


def _published_before(model: Path, wanted: dict[str, str]) -> Path | None:
    """The newest version that has this tokenizer."""
    for folder in reversed(version_folders(model)):
        try:
            files = read_manifest(folder)["files"]
        except ManifestError:
            continue
        if {name: digest for name, digest in files.items() if name.startswith("tokenizer/")} == wanted:
            return folder
    return None
