"""The record of administrators' acts: what is changed or removed shows."""

import threading
from pathlib import Path

import pytest
from sqlalchemy import text

from account_runs import id_of, new_key, opened, sqlite_url, trireme
from trireme_gateway.accounts import audit, keys


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Of a database in which something was done."""
    url = sqlite_url(tmp_path)
    key = new_key(url, "acme", name="app")
    trireme(url, "keys", "revoke", id_of(key))
    for number in range(3):
        new_key(url, f"tenant-{number}")
    return url


def test_it_says_who_did_what_and_when(url: str) -> None:
    listed = trireme(url, "audit", "list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["number", "1", "2", "3", "4", "5"]
    assert audit.actor().split()[0] in listed[1]
    assert "keys.create" in listed[1]
    assert "keys.revoke" in listed[2]
    said = trireme(url, "audit", "verify").stdout
    assert said.startswith("5 entries, none missing and none changed.")
    # What was the head once is in the chain still.
    head = said.split()[-1]
    new_key(url, "more")
    assert trireme(url, "audit", "verify", "--head", head).returncode == 0


#: What is done to it behind its back -> what is said.
TAMPERED = {
    "DELETE FROM audit WHERE number = 2": "entry 2 is missing: after 1 comes 3",
    "DELETE FROM audit WHERE number = 1": "entry 1 is missing: after 0 comes 2",
    "DELETE FROM audit WHERE number = 5": "the last entries are missing: 5 were written, 4 are there",
    "DELETE FROM audit": "the last entries are missing: 5 were written, 0 are there",
    "UPDATE audit SET actor = 'nobody@nowhere' WHERE number = 3": "entry 3 (keys.create, nobody@nowhere) was changed",
    "UPDATE audit SET time_ms = time_ms - 1 WHERE number = 4": "entry 4",
    "UPDATE audit SET detail = '{}' WHERE number = 1": "entry 1",
    "DELETE FROM audit WHERE number = 2; UPDATE audit SET number = number - 1 WHERE number > 2": "entry 2 does not",
}


@pytest.mark.parametrize("tampering", TAMPERED)
def test_what_is_changed_shows(url: str, tampering: str) -> None:
    with opened(url) as database, database.write() as connection:
        for statement in tampering.split("; "):
            connection.execute(text(statement))
    done = trireme(url, "audit", "verify", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"BROKEN: {TAMPERED[tampering]}")


def test_a_chain_that_was_written_anew_lacks_the_head_that_was_noted(url: str, tmp_path: Path) -> None:
    head = trireme(url, "audit", "verify").stdout.split()[-1]
    other = sqlite_url(tmp_path / "other")
    new_key(other, "acme")
    trireme(other, "audit", "verify")
    done = trireme(other, "audit", "verify", "--head", head, check=False)
    assert done.returncode == 1
    assert "no entry has the digest" in done.stderr


def test_acts_at_the_same_time_make_one_chain(url: str) -> None:
    def create() -> None:
        with opened(url) as database:
            for _ in range(5):
                keys.create(database, "acme")

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with opened(url) as database, database.read() as connection:
        assert audit.verify(connection)[0] == 25


def test_an_act_that_fails_is_not_recorded(url: str) -> None:
    before = trireme(url, "audit", "verify").stdout
    assert trireme(url, "keys", "revoke", "nosuchkey0", check=False).returncode == 1
    assert trireme(url, "audit", "verify").stdout == before
