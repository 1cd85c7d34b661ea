from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from load_runs import NASTY, failed, request
from trireme_load.errors import ReadError
from trireme_load.record import CANCELLED, COLUMNS, Record, from_row, read_csv, to_row, write_csv

TIMES = st.floats(0, 1e5).map(lambda value: round(value, 6))
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30)
RECORDS = st.builds(
    Record,
    scenario=TEXTS,
    model=TEXTS,
    target=st.sampled_from(["grpc", "http", "openai"]),
    streamed=st.booleans(),
    worker=st.integers(0, 64),
    user=st.integers(0, 10**6),
    intended_s=TIMES,
    sent_s=TIMES,
    first_token_s=st.none() | TIMES,
    last_token_s=st.none() | TIMES,
    end_s=TIMES,
    gaps_s=st.lists(TIMES, max_size=5).map(tuple),
    input_tokens=st.integers(0, 10**6),
    output_tokens=st.integers(0, 10**6),
    code=TEXTS,
    error=TEXTS,
    finish_reason=TEXTS,
    queue_s=st.none() | TIMES,
    release=TEXTS,
)


def test_latencies_count_from_when_a_request_was_to_be_sent() -> None:
    record = request(1.0, sent_s=3.0, first_token_s=3.5, last_token_s=4.5, end_s=4.6, output_tokens=3)
    assert record.ttft_s == pytest.approx(2.5)
    assert record.e2e_s == pytest.approx(3.6)
    assert record.lag_s == pytest.approx(2.0)
    assert record.tpot_s == pytest.approx(0.5)


def test_one_token_has_no_tpot_and_an_answer_in_one_piece_no_ttft() -> None:
    assert request(output_tokens=1).tpot_s is None
    assert request(first_token_s=None).ttft_s is None
    assert request(first_token_s=None).tpot_s is None


def test_only_what_was_answered_to_its_end_is_ok() -> None:
    assert request().is_ok
    assert not failed().is_ok
    assert not request(code=CANCELLED).is_ok


@given(RECORDS)
def test_a_row_is_the_record(record: Record) -> None:
    assert from_row(to_row(record)) == record


@given(records=st.lists(RECORDS, max_size=3))
def test_a_file_holds_records_to_the_microsecond(
    records: list[Record], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("csv") / "requests.csv"
    write_csv(path, records)
    assert list(read_csv(path)) == records


def test_any_text_survives(tmp_path: Path) -> None:
    record = failed(error=f'{NASTY}\n"two" lines, and more')
    write_csv(tmp_path / "r.csv", [record])
    assert list(read_csv(tmp_path / "r.csv")) == [record]


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    write_csv(path, [request(), request()])
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], lines[2].replace("0.100000", "soon", 1)]))
    with pytest.raises(ReadError, match=r"r\.csv, line 3: .*soon"):
        list(read_csv(path))


def test_a_line_that_broke_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    write_csv(path, [request()])
    path.write_text(path.read_text()[:-40])
    with pytest.raises(ReadError, match="line 2"):
        list(read_csv(path))


@pytest.mark.parametrize("text", ["", "a,b\n", ",".join(COLUMNS[:-1]) + "\n"])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(ReadError, match="its columns are not those"):
        list(read_csv(tmp_path / "r.csv"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"none\.csv cannot be read: No such file"):
        list(read_csv(tmp_path / "none.csv"))
