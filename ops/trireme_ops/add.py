"""`trireme add`: serve one more LLM beside those that are there."""

import argparse
from pathlib import Path
from typing import Any

from .errors import OperatorError
from .layout import Layout


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "add",
        help="make the models of one more LLM, from a checkpoint",
        description="Makes the models and ensembles of one more LLM under names of its own: NAME, NAME_unary and "
        "NAME_llmapi are what clients call. A running server takes it in when it is started again.",
    )
    parser.add_argument("name", nargs="?", help="a-z, 0-9 and _; the models are called after it")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="a Hugging Face checkpoint folder")
    parser.add_argument("--weights", help="how its weights are stored: f32 (default), int8 or int4")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help="a setting of its engine"
    )
    parser.add_argument("--spec", type=Path, metavar="FILE", help="all of this from a TOML file instead")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Add a family; 0 if it is there."""
    from .family import FamilySpec, add_family, model_names, read_spec

    if arguments.spec:
        if arguments.name or arguments.checkpoint or arguments.settings or arguments.weights:
            raise OperatorError("--spec holds everything; leave out the name, --checkpoint, --weights and --set")
        spec = read_spec(arguments.spec)
    elif arguments.name and arguments.checkpoint:
        settings = dict(setting.partition("=")[::2] for setting in arguments.settings)
        spec = FamilySpec(arguments.name, arguments.checkpoint, settings, arguments.weights or "f32")
    else:
        raise OperatorError("a name and --checkpoint DIR are needed, or --spec FILE")
    add_family(Layout.find(), spec)
    print(f"Added {', '.join(model_names(spec.name))}.")
    print(f'A server that is started from now on serves it: trireme ask --model {spec.name} "..."')
    return 0
