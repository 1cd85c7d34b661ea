"""`trireme publish-tokenizer`: further versions of an LLM's preprocessing and postprocessing."""

import argparse
from pathlib import Path
from typing import Any

from .errors import OperatorError
from .layout import Layout


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "publish-tokenizer",
        help="publish a checkpoint's tokenizer",
        description="Publishes versions of an LLM's preprocessing and postprocessing with the tokenizer of a "
        "checkpoint. An engine with that tokenizer is published by trireme build; a release pins versions that fit.",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="a Hugging Face folder")
    parser.add_argument("--llm", default="ensemble", metavar="NAME", help="its public ensemble (default: ensemble)")
    parser.add_argument("--key", type=Path, metavar="PEM", help="sign with this private key of an elliptic curve")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Publish both; 0. Raises OperatorError for a checkpoint or a key that cannot be used."""
    from trireme_build.errors import BuildError
    from trireme_build.inspection import inspect_checkpoint
    from trireme_build.publish_tokenizer import publish_tokenizer
    from trireme_runtime.manifest import ManifestError

    from .releases.llm import find_llm

    layout = Layout.find()
    llm = find_llm(layout, arguments.llm)
    if arguments.key is not None and not arguments.key.is_file():
        raise OperatorError(f"{arguments.key}: no such file; --key names it")
    try:
        checkpoint = arguments.checkpoint.resolve()
        context = inspect_checkpoint(checkpoint).shape.max_positions
        for model in (llm.preprocessing, llm.postprocessing):
            published = publish_tokenizer(layout.root, model, checkpoint, context, arguments.key)
            print(f"{model}/{published.folder.name}{'' if published.new else ', published before'}")
    except (BuildError, ManifestError) as error:
        raise OperatorError(str(error)) from error
    return 0
