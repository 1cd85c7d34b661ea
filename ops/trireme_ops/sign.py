"""`trireme sign`: sign versions that are published already."""

import argparse
from pathlib import Path
from typing import Any

from trireme_runtime.manifest import ManifestError
from trireme_runtime.versions import PASSWORD_VARIABLE, sign, verify_version

from .errors import OperatorError


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "sign",
        help="sign versions",
        description="Writes signature.json, in the format of model-signing, beside the manifest of each version. The "
        f"password of an encrypted key is read from ${PASSWORD_VARIABLE}.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a version folder")
    parser.add_argument("--key", type=Path, required=True, metavar="PEM", help="a private key of an elliptic curve")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Sign each that is what its manifest says; 0. Raises OperatorError naming the first that cannot be."""
    for path in arguments.paths:
        if not path.is_dir():
            raise OperatorError(f"{path}: no such folder")
        mode = path.stat().st_mode
        try:
            if verify_version(path).get("source"):
                raise OperatorError(
                    f"{path}: its engine is made where it is served, and cannot be signed; trireme build makes one "
                    "that can"
                )
            path.chmod(mode | 0o200)
            sign(path, arguments.key)
        except ManifestError as error:
            raise OperatorError(str(error)) from error
        finally:
            path.chmod(mode)
        print(f"{path}: signed")
    return 0
