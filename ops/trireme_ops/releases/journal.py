"""What a server remembers of its releases, whatever dies: the one that is on its way, and every step that was taken."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import OperatorError, Refused
from .release import now


@dataclass(frozen=True)
class Promotion:
    """One release on its way, as it stands in the journal.

    left: what was live before; None: no release. phase: loading, loaded, switching, watching, proved, freeing.
    """

    llm: str
    release: str
    left: str | None
    phase: str
    operator: str
    began: str
    server_restarted: bool = False


class Journal:
    """Kept in a folder. operator: who has the lock now; empty if nobody has."""

    def __init__(self, folder: Path, operator: Callable[[], str]) -> None:
        self._folder = folder
        self._operator = operator
        promotion = self.promotion()
        if promotion is not None:
            self._write(replace(promotion, server_restarted=True))

    @property
    def _path(self) -> Path:
        return self._folder / "promotion.json"

    def promotion(self) -> Promotion | None:
        """The promotion that has not come to its end. Raises OperatorError for a damaged file."""
        try:
            return Promotion(**json.loads(self._path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise OperatorError(f"{self._path}: damaged: {error}") from error

    def _write(self, promotion: Promotion) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        staging = self._path.with_name(f".{self._path.name}")
        with staging.open("w", encoding="utf-8") as file:
            json.dump(asdict(promotion), file)
            file.flush()
            os.fsync(file.fileno())
        staging.rename(self._path)

    def begin(self, llm: str, release: str, left: str | None) -> None:
        """A release is on its way. Raises Refused if another one is."""
        promotion = self.promotion()
        if promotion is not None and (promotion.llm, promotion.release) != (llm, release):
            raise Refused(f"{promotion.release} is on its way ({promotion.phase}); settle it first")
        self._write(Promotion(llm, release, left, "loading", self._operator(), now()))
        self.note("loading", llm=llm, release=release, left=left)

    def goes_back_to(self, release: str) -> bool:
        """Whether this is what was live before the one that is on its way."""
        promotion = self.promotion()
        return promotion is not None and release == (promotion.left or before(promotion.release))

    def mark(self, phase: str) -> None:
        """The one that is on its way, if there is one, has come so far."""
        promotion = self.promotion()
        if promotion is not None:
            self._write(replace(promotion, phase=phase))
            self.note(phase, llm=promotion.llm, release=promotion.release)

    def end(self, outcome: str, why: str) -> None:
        """None is on its way any more."""
        promotion = self.promotion()
        if promotion is not None:
            self.note(outcome, llm=promotion.llm, release=promotion.release, left=promotion.left, why=why)
        self._path.unlink(missing_ok=True)

    def note(self, step: str, **more: Any) -> None:
        """Append a step."""
        line = {"at": now(), "operator": self._operator(), "step": step, **more}
        with (self._folder / "journal.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def before(release: str) -> str:
    """The name that a server gives to what it served without a release, when `release` is the first."""
    return f"before-{release}"[:40]
