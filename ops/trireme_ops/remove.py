"""`trireme remove`: take away an LLM that `trireme add` made."""

import argparse
from typing import Any

from .layout import Layout


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Register the subcommand."""
    parser = commands.add_parser("remove", help="remove the models of an LLM that was added")
    parser.add_argument("name", help="the name that it was added under")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Remove a family; 0 if it is gone."""
    from .family import model_names, remove_family

    remove_family(Layout.find(), arguments.name)
    print(f"Removed {', '.join(model_names(arguments.name))}.")
    return 0
