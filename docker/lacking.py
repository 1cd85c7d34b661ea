"""Prints those blocks of a pinned requirements file whose packages this interpreter does not have, in any version.

    python docker/lacking.py FILE

For an image that brings most of them, in versions that fit together and are not to be replaced. Needs nothing itself.
"""

import re
import sys
from importlib.metadata import distributions
from pathlib import Path


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def lacking(text: str, installed: set[str]) -> str:
    """The blocks of `text` whose names, in their canonical form, are not in `installed`."""
    parts = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)
    named = [(re.match(r"([A-Za-z0-9._-]+)==", part), part) for part in parts]
    return "".join(part for match, part in named if match and _canonical(match[1]) not in installed)


def main() -> int:
    installed = {_canonical(str(found.metadata["Name"])) for found in distributions()}
    print(lacking(Path(sys.argv[1]).read_text(encoding="utf-8"), installed), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
