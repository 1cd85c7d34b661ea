"""docs/errors.md knows every refusal that the code words."""

import ast

import pytest

from support import ROOT
from trireme_runtime.contract import Code

PAGE = ROOT / "docs" / "errors.md"


def wordings() -> list[tuple[str, str]]:
    """(place, the longest part that is the same in every such message) of each refusal in the runtime."""
    found = []
    for path in sorted((ROOT / "runtime").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            if node.func.id not in ("invalid", "Refusal") or not node.args:
                continue
            message = node.args[-1]
            parts = message.values if isinstance(message, ast.JoinedStr) else [message]
            texts = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
            if texts:
                longest = max(texts, key=len).strip(" :;,()'[]")
                found.append((f"{path.name}:{node.lineno}", longest))
    return found


def test_there_are_refusals() -> None:
    assert len(wordings()) > 50


@pytest.mark.parametrize(("place", "wording"), wordings())
def test_a_refusal_is_explained(place: str, wording: str) -> None:
    assert wording in PAGE.read_text(encoding="utf-8"), f"{place}: {wording!r}"


@pytest.mark.parametrize("code", list(Code))
def test_a_code_is_explained(code: Code) -> None:
    assert f"`{code.value}`" in PAGE.read_text(encoding="utf-8")


def test_every_line_of_a_table_says_what_to_do() -> None:
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            assert all(cell.strip() for cell in line.strip("|").split(" | ")), line
