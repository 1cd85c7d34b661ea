"""The control API of a real server: for whoever has the key, and nobody else; bad calls are told what is wrong."""

import http.client
import json
from typing import Any

import pytest

from support import ROOT, Server
from trireme_ops.embedded import CONTROL_HEADER
from trireme_ops.layout import Layout


def call(server: Server, method: str, path: str, body: Any = None, key: str | None = None) -> tuple[int, Any]:
    """The status, and what was answered."""
    host, _, port = server.addresses["health"].rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    text = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    given = Layout(ROOT).control_key() if key is None else key
    try:
        connection.request(method, f"/v2/trireme/{path}", text, {CONTROL_HEADER: given} if given else {})
        response = connection.getresponse()
        answer = response.read()
        return response.status, json.loads(answer) if answer else None
    finally:
        connection.close()


@pytest.mark.parametrize("key", ["", "wrong", "ü"])
def test_nobody_gets_in_without_the_key(server: Server, key: str) -> None:
    for method, path in (("GET", "releases"), ("POST", "releases/lock"), ("POST", "releases/load")):
        status, answer = call(
            server, method, path, {} if method == "POST" else None, key.encode("latin-1").decode("latin-1")
        )
        assert status == 401
        assert "control key" in answer["error"]


@pytest.mark.parametrize(
    ("act", "body", "status", "said"),
    [
        ("explode", {}, 404, "there is no act 'explode'; there are lock"),
        ("lock", b"{", 400, "the body is no JSON"),
        ("lock", [1], 400, "the body is no JSON object"),
        ("lock", {"operator": "me"}, 400, "lock needs machine"),
        ("lock", {"operator": 1, "machine": "m", "pid": 1, "purpose": "p"}, 400, "lock: operator is '1'"),
        ("lock", {"operator": "me", "machine": "m", "pid": True, "purpose": "p"}, 400, "lock: pid is 'True'"),
        ("unlock", {"token": "t", "more": 1}, 400, "unlock takes no 'more'"),
        ("switch", {"token": "t", "llm": "ensemble", "release": "r1"}, 409, "the lock is not yours any more"),
        ("status", {}, 404, "there is no act 'status'"),
        ("__init__", {}, 404, "there is no act"),
    ],
)
def test_a_call_that_is_wrong_is_told_why(server: Server, act: str, body: Any, status: int, said: str) -> None:
    found, answer = call(server, "POST", f"releases/{act}", body)
    assert found == status
    assert said in answer["error"]


def test_a_body_that_is_too_long_is_not_read(server: Server) -> None:
    host, _, port = server.addresses["health"].rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    connection.putrequest("POST", "/v2/trireme/releases/lock")
    connection.putheader("Content-Length", str(1 << 40))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_what_is_served_without_a_release_is_said(server: Server) -> None:
    status, answer = call(server, "GET", "releases")
    assert status == 200
    assert answer["serving"]
    assert answer["llms"]["ensemble"]["live"] is None
    assert answer["drift"] == []
    assert answer["promotion"] is None


def test_what_has_not_been_locked_cannot_be_done(server: Server) -> None:
    me = {"operator": "me", "machine": "elsewhere", "pid": 1, "purpose": "testing"}
    status, lock = call(server, "POST", "releases/lock", me)
    assert status == 200
    status, refused = call(server, "POST", "releases/lock", {**me, "operator": "another"})
    assert status == 409
    assert "me (process 1 on elsewhere) has been at work on" in refused["error"]
    token = {"token": lock["token"]}
    for act, body, said in (
        ("load", {"document": {"name": "r"}}, "llm is missing"),
        ("load", {"document": []}, "a release is a JSON object"),
        ("switch", {"llm": "ensemble", "release": "r9"}, "r9 is not loaded"),
        ("free", {"llm": "ensemble", "release": None, "timeout_s": 1}, "unreleased is live"),
        ("document", {"release": "r9"}, "this server was never given the release 'r9'"),
        ("stop_shadow", {}, "no traffic is copied"),
        ("start_shadow", {"release": "r9", "fraction": 0.5, "show_texts": False}, "never given the release"),
    ):
        status, answer = call(server, "POST", f"releases/{act}", {**token, **body})
        assert status in (400, 409), answer
        assert said in answer["error"]
    assert call(server, "POST", "releases/unlock", token)[0] == 200
