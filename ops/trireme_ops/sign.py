"""`trireme sign`: sign versions that are published already."""

import argparse
import os
from pathlib import Path
from typing import Any

from trireme_runtime.manifest import ManifestError
from trireme_runtime.versions import sign, verify_version

from .errors import OperatorError

_PASSWORD_VARIABLE = "TRIREME_KEY_PASSWORD"


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "sign",
        help="sign versions",
        description="Writes signature.json, in the format of model-signing, beside the manifest of each version. The "
        f"password of an encrypted key is read from ${_PASSWORD_VARIABLE}.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a version folder")
    parser.add_argument("--key", type=Path, required=True, metavar="PEM", help="a private key (EC, P-256)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Sign each that is what its manifest says; 0. Raises OperatorError naming the first that cannot be."""
    for path in arguments.paths:
        mode = path.stat().st_mode
        try:
            verify_version(path)
            path.chmod(mode | 0o200)
            sign(path, arguments.key, os.environ.get(_PASSWORD_VARIABLE))
        except ManifestError as error:
            raise OperatorError(str(error)) from error
        finally:
            path.chmod(mode)
        print(f"{path}: signed")
    return 0
