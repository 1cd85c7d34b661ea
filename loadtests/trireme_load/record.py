"""What became of one request, and how it is written to `requests.csv`."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .errors import ReadError

#: Ends of a request. cancelled: the client left on purpose, as some scenarios do; it is neither a success nor an error.
OK, CANCELLED = "OK", "CANCELLED_BY_CLIENT"


@dataclass(frozen=True)
class Record:
    """One request. Times are in s since the run began, on one clock.

    scenario: which kind of user sent it. worker, user: who sent it. target: grpc, http or openai. streamed: whether its
    tokens came one by one; where not, first_token_s is None.
    intended_s: when it was to be sent; in a closed loop that is sent_s. first_token_s, last_token_s: when the first and
    the last message with text came. end_s: when it was over. gaps_s: between two successive messages with text.
    input_tokens, output_tokens: as the server counted them, 0 if it did not. queue_s: how long it waited, as the server
    saw it. code: OK, CANCELLED_BY_CLIENT, or the error's. release: which release or version answered.
    """

    scenario: str
    model: str
    target: str
    streamed: bool
    worker: int
    user: int
    intended_s: float
    sent_s: float
    first_token_s: float | None
    last_token_s: float | None
    end_s: float
    gaps_s: tuple[float, ...]
    input_tokens: int
    output_tokens: int
    code: str
    error: str = ""
    finish_reason: str = ""
    queue_s: float | None = None
    release: str = ""

    @property
    def is_ok(self) -> bool:
        """Whether it was answered to its end."""
        return self.code == OK

    @property
    def is_failed(self) -> bool:
        """Whether it neither was answered to its end nor left on purpose."""
        return self.code not in (OK, CANCELLED)

    @property
    def ttft_s(self) -> float | None:
        """Time to first token: from the time at which it was to be sent."""
        return None if self.first_token_s is None else self.first_token_s - self.intended_s

    @property
    def e2e_s(self) -> float:
        """End-to-end latency: from the time at which it was to be sent."""
        return self.end_s - self.intended_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first, the mean of this request."""
        if self.first_token_s is None or self.last_token_s is None or self.output_tokens < 2:
            return None
        return (self.last_token_s - self.first_token_s) / (self.output_tokens - 1)

    @property
    def lag_s(self) -> float:
        """How much later it was sent than it was to be."""
        return self.sent_s - self.intended_s


COLUMNS = tuple(field.name for field in fields(Record))


def to_row(record: Record) -> list[Any]:
    """Plain values, in the order of COLUMNS: what crosses a process's border, and what the CSV holds."""
    return [list(value) if isinstance(value, tuple) else value for value in (getattr(record, name) for name in COLUMNS)]


def from_row(row: list[Any]) -> Record:
    """The record of such values."""
    values = dict(zip(COLUMNS, row, strict=True))
    return Record(**{**values, "gaps_s": tuple(values["gaps_s"])})


def write_csv(path: Path, records: Iterable[Record]) -> None:
    """One line a request; gaps_s is a list with spaces between, what is not known is empty, and times have 1 us."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for record in records:
            writer.writerow(written_row(to_row(record)))


def written_row(row: list[Any]) -> list[Any]:
    """Such values as the CSV holds them."""
    return [_written(value) for value in row]


def _written(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        return f"{value:.6f}"
    return " ".join(f"{one:.6f}" for one in value) if isinstance(value, list) else value


def read_csv(path: Path) -> Iterator[Record]:
    """The records of a file that write_csv wrote. Raises ReadError naming the line."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = csv.reader(file)
            head = next(lines, [])
            if tuple(head) != COLUMNS:
                raise ReadError(f"{path}: its columns are not those of a run of this version")
            for number, line in enumerate(lines, 2):
                try:
                    yield _read(dict(zip(COLUMNS, line, strict=True)))
                except ValueError as error:
                    raise ReadError(f"{path}, line {number}: {error}") from error
    except OSError as error:
        raise ReadError(f"{path} cannot be read: {error.strerror}") from error


def _read(texts: dict[str, str]) -> Record:
    def time(name: str) -> float | None:
        return float(texts[name]) if texts[name] else None

    return Record(
        scenario=texts["scenario"],
        model=texts["model"],
        target=texts["target"],
        streamed=texts["streamed"] == "1",
        worker=int(texts["worker"]),
        user=int(texts["user"]),
        intended_s=float(texts["intended_s"]),
        sent_s=float(texts["sent_s"]),
        first_token_s=time("first_token_s"),
        last_token_s=time("last_token_s"),
        end_s=float(texts["end_s"]),
        gaps_s=tuple(float(gap) for gap in texts["gaps_s"].split()),
        input_tokens=int(texts["input_tokens"]),
        output_tokens=int(texts["output_tokens"]),
        code=texts["code"],
        error=texts["error"],
        finish_reason=texts["finish_reason"],
        queue_s=time("queue_s"),
        release=texts["release"],
    )
