"""A view as an SVG that refers to nothing outside it."""

import io
import re
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from ..errors import OperatorError
from .view import View

#: rich's own, without the fonts that it would fetch: each run of text says how wide it is, so that any monospace fits.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def write_svg(view: View, path: Path, width: int) -> None:
    """Draw it, `width` characters wide. Raises OperatorError naming the file where it cannot be written."""
    console = Console(
        record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor", no_color=False
    )
    console.print(view)
    try:
        path.write_text(console.export_svg(title="trireme top", code_format=FORMAT), encoding="utf-8")
    except OSError as error:
        raise OperatorError(f"--svg: {path} cannot be written: {error.strerror}") from None
