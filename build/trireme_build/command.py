"""`trireme build`: from a checkpoint to a published version, as a recipe says."""

import argparse
import sys
from pathlib import Path
from typing import Any


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "build",
        help="make a version from a checkpoint, as a recipe says",
        description="Quantizes, exports, verifies, compiles, evaluates and publishes, as recipes say. What has not "
        "changed since the last time is skipped; what was cut off goes on where it was. Logs are in .trireme/builds/.",
    )
    parser.add_argument("recipes", nargs="+", type=Path, metavar="RECIPE", help="a TOML file; see build/recipes/")
    parser.add_argument("--key", type=Path, metavar="PEM", help="sign with this private key of an elliptic curve")
    parser.add_argument(
        "--print", action="store_true", dest="print_only", help="show how trtllm-build would be called, and do nothing"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Build one recipe after the other; 0 if all are published."""
    from trireme_runtime.checkout import checkout_root
    from trireme_runtime.manifest import ManifestError
    from trireme_runtime.versions import public_key_of

    from .errors import BuildError
    from .recipe import read_recipe

    try:
        root = checkout_root()
        recipes = [read_recipe(path) for path in arguments.recipes]
        names = [recipe.name for recipe in recipes]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise BuildError(f"{twice}: two recipes have this name; what they make would be mixed up")
        if arguments.key is not None and not arguments.key.is_file():
            raise BuildError(f"{arguments.key}: no such file; --key names it")
        if arguments.key is not None:
            public_key_of(arguments.key)
    except (BuildError, ManifestError, FileNotFoundError) as error:
        print(f"trireme: {error}", file=sys.stderr)
        return 1
    for number, recipe in enumerate(recipes):
        try:
            _build(recipe, root, arguments)
        except (BuildError, ManifestError) as error:
            print(f"trireme: {recipe.name}: {error}", file=sys.stderr)
            if names[number + 1 :]:
                print(f"trireme: not built: {', '.join(names[number + 1 :])}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(f"\ntrireme: {recipe.name}: stopped; the same command goes on where it was", file=sys.stderr)
            return 130
    return 0


def _build(recipe: Any, root: Path, arguments: argparse.Namespace) -> None:
    from .pipeline.build import Build, carry_out
    from .pipeline.stages import STAGES, print_command

    build = Build(recipe, root, arguments.key)
    if arguments.print_only:
        print(print_command(build))
        return
    carry_out(build, STAGES, lambda line: print(line, flush=True))
