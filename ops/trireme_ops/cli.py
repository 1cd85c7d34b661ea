"""The `trireme` command. Subcommands are modules registered under the entry point group `trireme.commands`."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points, version

from .errors import OperatorError


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trireme", description="LLM serving on Triton.")
    parser.add_argument("--version", action="version", version=f"trireme {version('trireme')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    points = sorted(entry_points(group="trireme.commands"), key=lambda point: point.name)
    # Only the chosen command's module is imported, so that each starts at once.
    wanted = [point for point in points if point.name == chosen] or points
    for point in wanted:
        importlib.import_module(point.value).add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    chosen = next((word for word in words if not word.startswith("-")), None)
    try:
        parsed = _parser(chosen).parse_args(words)
        return int(parsed.run(parsed))
    except OperatorError as error:
        print(f"trireme: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output has seen enough; Python's own flush at exit must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        print(f"trireme: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
