"""Keys: who is let in, and who is not."""

import json
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from sqlalchemy import insert, select

from account_runs import bearer, id_of, new_key, opened, sqlite_url, trireme
from gateway_runs import Gateway, call, chat, complete, open_stream, read_until, server_options, started_gateway
from raw import ask
from service_runs import postgres
from support import TRIREME, Server, wait_for
from trireme_gateway.accounts.database import spent
from trireme_gateway.accounts.quota import Quota
from trireme_gateway.accounts.token import id_of as parsed_id
from trireme_gateway.accounts.token import is_digest_of, masked
from trireme_gateway.accounts.token import new_key as new_token

SHORT = {"max_tokens": 1}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return sqlite_url(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def locked(server: Server, database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that asks for keys."""
    new_key(database, "first")
    folder = tmp_path_factory.mktemp("locked")
    with started_gateway(folder, *server_options(server), database=database) as running:
        yield running
    # No secret is anywhere: not in the log, not in the database.
    texts = running.log_path.read_text() + Path(database.removeprefix("sqlite:///")).read_bytes().decode("latin-1")
    assert not re.search(r"trk_\w{10}_\w{20}", texts)


def test_a_key_opens_and_nothing_else_does(locked: Gateway, database: str) -> None:
    answer = chat(locked, "What is 37 + 58?")
    assert answer.status == 401
    assert answer.error["code"] == "invalid_api_key"
    assert answer.error["message"] == "there is no API key; send it as the header Authorization: Bearer KEY"
    assert answer.headers["www-authenticate"] == 'Bearer realm="trireme"'
    key = new_key(database, "acme")
    wait_for(lambda: chat(locked, "What is 37 + 58?", bearer(key)).status == 200, 5, "the key")
    with openai.OpenAI(base_url=locked.url, api_key=key, max_retries=0) as client:
        answered = client.chat.completions.create(
            model="ensemble", messages=[{"role": "user", "content": "What is 37 + 58?"}]
        )
        assert answered.choices[0].message.content == "95"
        assert [model.id for model in client.models.list()] == ["ensemble"]
    with (
        openai.OpenAI(base_url=locked.url, api_key="sk-mine", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match="none of this gateway's"),
    ):
        client.models.list()


def other_secret(key: str) -> str:
    """Another key with the same id."""
    made = new_token().text
    forged = f"trk_{id_of(key)}_{made.split('_')[2][:43]}"
    from trireme_gateway.accounts.token import _check

    return forged + _check(forged)


#: What is wrong with a key -> how it is made from a good one, and what is said.
BAD: dict[str, tuple[object, str]] = {
    "cut short": (lambda key: key[:-1], "incomplete or misspelt"),
    "cut to its id": (lambda key: key[:14], "incomplete or misspelt"),
    "misspelt": (lambda key: key[:20] + ("a" if key[20] != "a" else "b") + key[21:], "incomplete or misspelt"),
    "longer": (lambda key: key + "0", "incomplete or misspelt"),
    "of another": (lambda key: "sk-" + key[4:], "none of this gateway's"),
    "forged, of an id that is not there": (lambda key: new_token().text, "there is no API key"),
    "forged, of an id that is there": (other_secret, "there is no API key"),
    "in letters of Unicode": (lambda key: key[:-1] + "é", "incomplete or misspelt"),
    "twice": (lambda key: f"{key} {key}", "incomplete or misspelt"),
    "very long": (lambda key: key + 30_000 * "x", "incomplete or misspelt"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_key_is_refused_without_being_repeated(locked: Gateway, database: str, kind: str) -> None:
    key = new_key(database, "acme")
    wait_for(lambda: call(locked, "/v1/models", headers=bearer(key)).status == 200, 5, "the key")
    spoil, says = BAD[kind]
    spoilt = spoil(key)  # type: ignore[operator]
    header = {"authorization": f"Bearer {spoilt}".encode().decode("latin-1")}
    for _ in range(2):
        answer = complete(locked, "x", header, **SHORT)
        assert answer.status == 401
        assert says in answer.error["message"]
        assert key.split("_")[2][:12] not in answer.body.decode()
    assert call(locked, "/v1/models", headers=bearer(key)).status == 200


@pytest.mark.parametrize("header", ["Basic dXNlcjpwYXNz", "Bearer", "Bearer ", "", "trk_x"])
def test_what_is_no_bearer_token_is_no_key(locked: Gateway, header: str) -> None:
    assert complete(locked, "x", {"authorization": header}, **SHORT).status == 401


@pytest.mark.parametrize(
    "query", ["api_key=KEY", "key=anything", "x=1&access_token=t", "KEY", "a=b&API-Key=", "u=trk_0123456789_abc"]
)
def test_a_key_in_the_url_is_refused_and_in_no_log(locked: Gateway, database: str, query: str) -> None:
    key = new_key(database, "acme")
    for path in ("/v1/chat/completions", "/v1/models", "/health/ready", "/metrics"):
        answer = call(locked, f"{path}?{query.replace('KEY', key)}", headers=bearer(key))
        assert answer.status == 400
        assert answer.error["code"] == "key_in_url"
        assert "revoke it" in answer.error["message"]
    assert key not in locked.log
    assert call(locked, "/health/ready?verbose=1").status == 200


@pytest.mark.alone
def test_a_key_that_is_revoked_is_refused_within_a_second_by_every_gateway(
    locked: Gateway, server: Server, database: str, tmp_path: Path
) -> None:
    key = new_key(database, "acme")
    with started_gateway(tmp_path, *server_options(server), database=database) as other:
        both = (locked, other)
        for one in both:
            wait_for(lambda one=one: call(one, "/v1/models", headers=bearer(key)).status == 200, 5, "the key")  # type: ignore[misc]
        trireme(database, "keys", "revoke", id_of(key))
        began = time.monotonic()
        for one in both:
            wait_for(lambda one=one: call(one, "/v1/models", headers=bearer(key)).status == 401, 5, "the refusal")  # type: ignore[misc]
        assert time.monotonic() - began < 1.0
        assert "was revoked" in call(other, "/v1/models", headers=bearer(key)).error["message"]


def test_an_answer_under_way_goes_on_when_its_key_is_revoked(locked: Gateway, database: str) -> None:
    key = new_key(database, "acme")
    wait_for(lambda: call(locked, "/v1/models", headers=bearer(key)).status == 200, 5, "the key")
    fields = {"prompt": ask("Count from 1 to 60."), "ignore_eos": True, "max_tokens": 400}
    with open_stream(locked, fields, headers=[f"Authorization: Bearer {key}"]) as stream:
        read_until(stream, b"data: ")
        trireme(database, "keys", "revoke", id_of(key))
        wait_for(lambda: call(locked, "/v1/models", headers=bearer(key)).status == 401, 5, "the refusal")
        read_until(stream, b"[DONE]")


def test_a_rotated_key_has_the_same_rights_and_the_old_one_ends(locked: Gateway, database: str) -> None:
    old = new_key(database, "acme", Quota(requests_per_minute=77), name="app")
    with opened(database) as found, found.write() as connection:
        row = {"month": time.strftime("%Y-%m", time.gmtime()), "kind": "key", "name": id_of(old), "cost_nano": 12345}
        connection.execute(insert(spent).values(row))
    new = trireme(database, "keys", "rotate", id_of(old)).stdout.strip()
    with opened(database) as found, found.read() as connection:
        # What was spent is not forgotten with the old one.
        cost = connection.execute(select(spent.c.cost_nano).where(spent.c.name == id_of(new))).scalar()
        assert cost == 12345
    wait_for(lambda: complete(locked, "x", bearer(new), **SHORT).status == 200, 5, "the new key")
    answer = complete(locked, "x", bearer(new), **SHORT)
    assert answer.headers["x-ratelimit-limit-requests"] == "77"
    # For an hour.
    assert complete(locked, "x", bearer(old), **SHORT).status == 200
    newest = trireme(database, "keys", "rotate", id_of(new), "--grace", "0").stdout.strip()
    wait_for(lambda: complete(locked, "x", bearer(new), **SHORT).status == 401, 5, "the end of the old one")
    assert complete(locked, "x", bearer(newest), **SHORT).status == 200
    done = trireme(database, "keys", "rotate", id_of(new), check=False)
    assert done.returncode == 1
    assert "is revoked; only an active one can be rotated" in done.stderr


def test_a_key_that_has_expired_is_refused(locked: Gateway, database: str) -> None:
    key = new_key(database, "acme", expires_ms=int(1000 * time.time()) + 5000)
    wait_for(lambda: call(locked, "/v1/models", headers=bearer(key)).status == 200, 4, "the key")
    wait_for(lambda: call(locked, "/v1/models", headers=bearer(key)).status == 401, 10, "its end")
    assert "has expired" in call(locked, "/v1/models", headers=bearer(key)).error["message"]


def test_a_key_is_for_the_models_that_it_names(server: Server, tmp_path: Path) -> None:
    database = sqlite_url(tmp_path)
    key = new_key(database, "acme", models=["small"])
    models = "".join(f'[[model]]\nid = "{name}"\nllm = "ensemble"\n' for name in ("small", "large"))
    with started_gateway(tmp_path, *server_options(server), config=models, database=database) as gateway:
        assert complete(gateway, "x", bearer(key), model="small", **SHORT).status == 200
        refused = complete(gateway, "x", bearer(key), model="large", **SHORT)
        assert refused.status == 403
        assert refused.error["code"] == "model_not_allowed"
        assert refused.error["message"] == f"the key {id_of(key)} is not for the model 'large'; it is for small"
        listed = call(gateway, "/v1/models", headers=bearer(key)).json["data"]
        assert [model["id"] for model in listed] == ["small"]
        assert call(gateway, "/v1/models/large", headers=bearer(key)).status == 403


def test_metrics_are_for_keys_that_say_so(locked: Gateway, database: str) -> None:
    plain, monitor = new_key(database, "acme"), new_key(database, "ops", may_read_metrics=True)
    wait_for(lambda: call(locked, "/metrics", headers=bearer(monitor)).status == 200, 5, "the key")
    assert call(locked, "/metrics", headers=bearer(plain)).status == 403
    assert call(locked, "/metrics").status == 401
    for path in ("/health/live", "/health/ready", "/openapi.json"):
        assert call(locked, path).status == 200
    text = call(locked, "/metrics", headers=bearer(monitor)).body.decode()
    assert float(re.search(r"(?m)^trireme_gateway_unauthorized_total (\S+)", text)[1]) > 0  # type: ignore[index]
    assert float(re.search(r"(?m)^trireme_gateway_accounts_age_seconds (\S+)", text)[1]) < 5  # type: ignore[index]


def test_forged_keys_do_not_hold_up_others(locked: Gateway, database: str) -> None:
    key = new_key(database, "acme")
    wait_for(lambda: complete(locked, "x", bearer(key), **SHORT).status == 200, 5, "the key")
    statuses: list[int] = []

    def flood() -> None:
        for _ in range(40):
            statuses.append(complete(locked, "x", bearer(other_secret(key)), **SHORT).status)

    threads = [threading.Thread(target=flood) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert complete(locked, "x", bearer(key), **SHORT).status == 200
    for thread in threads:
        thread.join()
    assert set(statuses) <= {401, 429}
    assert 401 in statuses


def test_a_key_that_nobody_has_shown_yet_is_checked_once_for_many(locked: Gateway, database: str) -> None:
    key = new_key(database, "acme")
    probe = new_key(database, "acme")  # The later one: a gateway that has read it has read the other, too.
    wait_for(lambda: call(locked, "/v1/models", headers=bearer(probe)).status == 200, 5, "the keys")
    with ThreadPoolExecutor(64) as threads:
        statuses = list(threads.map(lambda _: call(locked, "/v1/models", headers=bearer(key)).status, range(200)))
    assert set(statuses) == {200}


def test_a_reload_does_not_open_a_public_gateway(tmp_path: Path) -> None:
    database = sqlite_url(tmp_path)
    new_key(database, "acme")
    options = ("--host", "0.0.0.0", "--server", "127.0.0.1:1")
    with started_gateway(tmp_path, *options, config="drain_s = 1\n", database=database) as gateway:
        assert gateway.config is not None
        gateway.config.write_text("drain_s = 1\n[keys]\nrequired = false\n")
        gateway.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "the settings stay as they were" in gateway.log, 10, "the refusal")
        assert call(gateway, "/v1/models").status == 401


def test_keys_are_asked_for_as_soon_as_there_is_one(server: Server, tmp_path: Path) -> None:
    database = sqlite_url(tmp_path)
    with started_gateway(tmp_path, *server_options(server), database=database) as gateway:
        assert complete(gateway, "x", **SHORT).status == 200
        # Whatever an SDK sends as a key is fine, until there are keys; but not what looks like one of ours.
        assert complete(gateway, "x", bearer("sk-anything"), **SHORT).status == 200
        assert complete(gateway, "x", bearer(new_token().text), **SHORT).status == 401
        key = new_key(database, "acme")
        wait_for(lambda: complete(gateway, "x", **SHORT).status == 401, 5, "the need of a key")
        trireme(database, "keys", "revoke", id_of(key))
        wait_for(lambda: complete(gateway, "x", bearer(key), **SHORT).status == 401, 5, "the end of the key")
        # The last key's end opens nothing.
        assert complete(gateway, "x", **SHORT).status == 401


def _start(*options: str) -> "subprocess.CompletedProcess[str]":
    command = [str(TRIREME), "gateway", "--port", "0", "--server", "127.0.0.1:1", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def test_a_public_address_needs_keys(tmp_path: Path) -> None:
    database = sqlite_url(tmp_path)
    refused = _start("--host", "0.0.0.0", "--database", database)
    assert refused.returncode == 1
    assert "host is 0.0.0.0, which others can reach, and no key is needed" in refused.stderr
    with started_gateway(
        tmp_path / "a", "--host", "0.0.0.0", "--insecure", "--server", "127.0.0.1:1", database=database
    ) as one:
        assert "anybody who reaches this address" in one.log
    assert "gateway.insecure" in trireme(database, "audit", "list").stdout
    new_key(database, "acme")
    with started_gateway(tmp_path / "b", "--host", "0.0.0.0", "--server", "127.0.0.1:1", database=database) as one:
        port = one.address.rpartition(":")[2]
        with socket.create_connection(("127.0.0.1", int(port)), timeout=10):
            pass


def test_required_keys_are_required_without_any(tmp_path: Path) -> None:
    config = "[keys]\nrequired = true\n"
    with started_gateway(tmp_path, "--server", "127.0.0.1:1", config=config) as gateway:
        assert complete(gateway, "x", **SHORT).status == 401


def test_a_database_that_is_lost_keeps_nobody_out(server: Server, tmp_path: Path) -> None:
    with postgres() as url:
        key = new_key(url, "acme")
        config = "[keys]\nrequired = true\n"
        with started_gateway(tmp_path, *server_options(server), config=config, database=url) as gateway:
            assert complete(gateway, "x", bearer(key), **SHORT).status == 200
            # Every connection is cut, and nobody can come.
            with opened(url) as other, other.write() as connection:
                connection.exec_driver_sql("ALTER DATABASE postgres CONNECTION LIMIT 0")
                connection.exec_driver_sql("ALTER ROLE trireme NOSUPERUSER")
                connection.exec_driver_sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                    "AND backend_type = 'client backend'"
                )
            wait_for(lambda: "stay as they were read last" in gateway.log, 20, "the loss")
            assert complete(gateway, "x", bearer(key), **SHORT).status == 200
            assert complete(gateway, "x", bearer(new_token().text), **SHORT).status == 401


def test_the_command_lists_and_explains(tmp_path: Path) -> None:
    database = sqlite_url(tmp_path)
    assert "There are no keys" in trireme(database, "keys", "list").stdout
    words = ("--name", "app", "--model", "m", "--expires", "30d", "--monthly-budget", "12.5")
    key = trireme(database, "keys", "create", "--tenant", "acme", *words).stdout.strip()
    made = trireme(database, "keys", "list").stdout
    assert re.search(rf"{id_of(key)}\s+acme\s+app\s+active\s.*\sm\s+12.5 a month", made)
    assert key not in made
    trireme(database, "keys", "limit", "--key", id_of(key), "--monthly-budget", "none", "--tokens-per-minute", "9000")
    (line,) = trireme(database, "keys", "list", "--json").stdout.splitlines()
    listed = json.loads(line)
    assert (listed["monthly_budget_nano"], listed["tokens_per_minute"]) == (None, 9000)
    said = trireme(database, "keys", "limit", "--tenant", "acme", "--max-concurrent", "3").stdout
    assert said == "acme: 3 at once\n"
    for words, says in (
        (("revoke", "nosuchkey0"), "there is no key 'nosuchkey0'"),
        (("rotate", "nosuchkey0"), "there is no key 'nosuchkey0'"),
        (("create", "--tenant", "a b"), "'a b': up to 128"),
        (("create", "--tenant", "a", "--expires", "2020-01-01"), "is over"),
        (("create", "--tenant", "a", "--expires", "soon"), "'soon' is no duration"),
        (("create", "--tenant", "a", "--requests-per-minute", "0"), "a whole number from 1 is needed"),
        (("create", "--tenant", "a", "--monthly-budget", "-1"), "an amount from 0"),
    ):
        done = trireme(database, "keys", *words, check=False)
        assert done.returncode in (1, 2)
        assert says in done.stderr


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense", "no URL"),
        ("mysql://host/name", "sqlite and postgresql are possible"),
        ("sqlite://", "SQLite needs a file"),
        ("sqlite:////proc/none/gateway.db", "/proc/none"),
        ("postgresql://127.0.0.1:1/none?password=hidden", "127.0.0.1:1"),
    ],
)
def test_a_bad_database_is_named(url: str, says: str) -> None:
    for words in (("keys", "list"), ("gateway", "--port", "0")):
        done = trireme(url, *words, check=False)
        assert done.returncode != 0
        assert says in done.stderr
        assert "hidden" not in done.stderr


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    new_key(sqlite_url(tmp_path / "sub"), "acme")
    assert (tmp_path / "sub" / "gateway.db").stat().st_mode & 0o077 == 0


def test_a_key_is_kept_as_a_digest_only() -> None:
    made = new_token()
    assert made.digest.startswith("$argon2id$")
    assert made.text.split("_")[2] not in made.digest
    assert is_digest_of(made.digest, made.text)
    assert not is_digest_of(made.digest, made.text[:-1])
    assert not is_digest_of("nonsense", made.text)
    assert parsed_id(made.text) == made.id
    assert masked(f"sent {made.text} twice") == f"sent trk_{made.id}_*** twice"
