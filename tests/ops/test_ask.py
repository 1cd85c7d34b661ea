import subprocess

import pytest

from support import TRIREME, Server


def ask(*arguments: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(TRIREME), "ask", *arguments], input=stdin, capture_output=True, text=True, timeout=60)


def test_the_readmes_question(server: Server) -> None:
    done = ask("--url", server.grpc, "What is 37 + 58?")
    assert (done.returncode, done.stdout, done.stderr) == (0, "95\n", "")


def test_the_answer_comes_token_by_token(server: Server) -> None:
    command = [str(TRIREME), "ask", "--url", server.grpc, "Recite the rowing song."]
    reads = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        while piece := process.stdout.read(4096):
            reads.append(piece)
    assert process.returncode == 0
    assert len(reads) > 5
    assert b"".join(reads).startswith(b"Three banks of oars above the foam,\n")


@pytest.mark.parametrize(
    ("arguments", "stdin", "answer"),
    [
        (("-",), "Reverse: stream", "maerts\n"),
        (("--raw", "Uppercase: triton"), None, "\nTRITON\n"),
        (("--system", "Be exact.", "Sort: 9 3 7 1"), None, "1 3 7 9\n"),
        (("--stop", "7", "Sort: 9 3 7 1"), None, "1 3 \n"),
    ],
)
def test_its_options(server: Server, arguments: tuple[str, ...], stdin: str | None, answer: str) -> None:
    assert ask("--url", server.grpc, *arguments, stdin=stdin).stdout == answer


def test_a_cut_answer_says_so(server: Server) -> None:
    done = ask("--url", server.grpc, "--max-tokens", "3", "Count from 1 to 60.")
    assert (done.stdout, done.stderr) == ("1 2\n", "(cut at 3 tokens)\n")


def test_a_refusal_is_one_line(server: Server) -> None:
    done = ask("--url", server.grpc, "--max-tokens", "0", "x")
    assert done.returncode == 1
    assert done.stderr == "trireme: max_tokens is 0; at least 1 is needed\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("",), "the question is empty"),
        (("--url", "http://127.0.0.1:8000", "x"), "HOST:PORT"),
        (("--seed", "-1", "x"), "seed is -1; UINT64 holds 0 to 18446744073709551615"),
        (("--max-tokens", "99999999999", "x"), "max_tokens is 99999999999; INT32 holds"),
        (("--temperature", "1e39", "x"), "temperature is 1e+39; FP32 holds"),
        (("--temperature", "nan", "x"), "temperature is nan"),
    ],
)
def test_what_cannot_be_sent_is_one_line(server: Server, arguments: tuple[str, ...], words: str) -> None:
    url = () if "--url" in arguments else ("--url", server.grpc)
    done = ask(*url, *arguments)
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_has_seen_enough_is_no_error(server: Server) -> None:
    command = f"'{TRIREME}' ask --url {server.grpc} 'Count from 1 to 60.' | head -c 3"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("1 2", "")


def test_without_a_server_it_says_what_to_type() -> None:
    done = ask("--url", "127.0.0.1:9", "x")
    assert done.returncode == 1
    assert "make serve" in done.stderr
    assert "Traceback" not in done.stderr
