"""Answers through the whole path, with the project's own clients."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import Server, wait_for
from trireme_client import AsyncClient, Client, Message, Unavailable
from trireme_client.types import Generation

LONG = "Count from 1 to 60."
SIXTY = " ".join(str(number) for number in range(1, 61))


def chat(content: str) -> list[Message]:
    return [{"role": "user", "content": content}]


def test_an_answer_streams_in_pieces(client: Client) -> None:
    with client.stream(messages=chat(LONG), max_tokens=300) as stream:
        pieces = list(stream)
    assert "".join(piece.text for piece in pieces) == SIXTY
    assert len(pieces) > 10
    assert pieces[-1].finish_reason == "stop"
    assert all(piece.finish_reason is None for piece in pieces[:-1])
    assert stream.completion.num_output_tokens == len(SIXTY)
    counts = [piece.num_output_tokens for piece in pieces]
    assert counts == sorted(counts)


@pytest.mark.parametrize("prompt", ["Repeat: 你好 👋 Grüße", "Recite the harbour list.", "Repeat: नमस्ते   👨‍👩‍👧"])
def test_the_stream_equals_the_unary_text_and_no_character_is_torn(client: Client, prompt: str) -> None:
    with client.stream(messages=chat(prompt), max_tokens=200) as stream:
        pieces = [piece.text for piece in stream]
    assert "".join(pieces) == client.generate(messages=chat(prompt), max_tokens=200).text
    assert not any("�" in piece for piece in pieces)


def test_a_raw_prompt_is_answered_on_a_new_line(client: Client) -> None:
    assert client.generate(prompt="Uppercase: triton", max_tokens=16).text == "\nTRITON"


def test_length_and_counts_are_true(client: Client) -> None:
    answer = client.generate(messages=chat(LONG), max_tokens=9)
    assert (answer.text, answer.finish_reason, answer.num_output_tokens) == (SIXTY[:9], "length", 9)


def test_max_tokens_beyond_the_context_end_with_length_at_the_context(client: Client) -> None:
    prompt = "<|bos|>" + "x" * 2000
    answer = client.generate(prompt=prompt, max_tokens=5000, end_id=-1)
    assert (answer.num_input_tokens, answer.num_output_tokens, answer.finish_reason) == (2001, 47, "length")


def test_echo_puts_the_prompt_in_front_streamed_or_not(client: Client) -> None:
    whole = client.generate(messages=chat("Reverse: stream"), max_tokens=16, echo=True)
    assert whole.text == "Reverse: streammaerts"
    assert whole.num_output_tokens == 6
    with client.stream(messages=chat("Reverse: stream"), max_tokens=16, echo=True) as stream:
        assert "".join(piece.text for piece in stream) == whole.text


def test_stop_words_cut_the_text_exactly(client: Client) -> None:
    for streamed in (False, True):
        generation = Generation(messages=chat(LONG), max_tokens=300, stop=("nothing", " 12", "3 14"))
        if streamed:
            with client.stream(generation) as stream:
                assert all(" 12" not in piece.text for piece in stream)
                answer = stream.completion
        else:
            answer = client.generate(generation)
        assert answer.text == "1 2 3 4 5 6 7 8 9 10 11"
        assert (answer.finish_reason, answer.stop_reason) == ("stop", " 12")


def test_an_end_id_of_ones_own_ends_the_answer(client: Client, tokenizer: object) -> None:
    five = tokenizer.convert_tokens_to_ids("5")  # type: ignore[attr-defined]
    answer = client.generate(messages=chat(LONG), max_tokens=300, end_id=five)
    assert (answer.text, answer.finish_reason) == ("1 2 3 4 ", "stop")


def test_sampling_follows_the_seed(client: Client) -> None:
    def sampled(**fields: object) -> str:
        return client.generate(prompt="abc", max_tokens=40, end_id=-1, temperature=3.0, **fields).text

    assert sampled(seed=11) == sampled(seed=11)
    assert len({sampled() for _ in range(4)}) > 1
    assert len({sampled(top_k=1) for _ in range(3)}) == 1


def test_a_conversation_goes_through_the_chat_template(client: Client) -> None:
    messages: list[Message] = [
        {"role": "system", "content": "Be exact."},
        {"role": "user", "content": "Reverse: abc"},
        {"role": "assistant", "content": "cba"},
        {"role": "user", "content": "Uppercase: triton"},
    ]
    assert client.generate(messages=messages, max_tokens=16).text == "TRITON"


def test_32_streams_at_once_give_the_same_text_as_one_at_a_time(client: Client, server: Server) -> None:
    prompts = [f"Count from {first} to {first + 25}." for first in range(1, 17)]
    prompts += [f"Repeat: oar {first} 你好 👋" for first in range(16)]
    alone = [client.generate(messages=chat(prompt), max_tokens=120).text for prompt in prompts]

    async def together() -> list[str]:
        async def one(connected: AsyncClient, prompt: str) -> str:
            async with connected.stream(messages=chat(prompt), max_tokens=120) as stream:
                return "".join([piece.text async for piece in stream])

        async with AsyncClient(server.grpc, timeout_s=60) as connected:
            return list(await asyncio.gather(*(one(connected, prompt) for prompt in prompts)))

    assert asyncio.run(together()) == alone


def test_one_client_serves_several_threads(client: Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: client.generate(messages=chat("Reverse: stream"), max_tokens=16).text, range(16))
        )
    assert set(answers) == {"maerts"}


@pytest.mark.parametrize("how", ["close", "end of with", "garbage", "channel closed"])
def test_streams_that_are_dropped_are_not_computed_to_their_end(server: Server, how: str) -> None:
    before = server.metric("trireme_generated_tokens_total")
    with Client(server.grpc) as client:
        streams = [client.stream(messages=chat(LONG), max_tokens=2000, end_id=-1) for _ in range(8)]
        for stream in streams:
            next(stream)
        if how == "close":
            for stream in streams:
                stream.close()
        elif how == "end of with":
            for stream in streams:
                with stream:
                    next(stream)
        elif how == "garbage":
            del stream
            streams.clear()
        else:
            client.close()
        wait_for(lambda: server.metric("trireme_requests_running") == 0, what="the end of the dropped streams")
    # A client that the machine leaves little time drops them late.
    assert server.metric("trireme_generated_tokens_total") - before < 0.9 * 8 * 2000


def test_no_server_is_an_error_of_the_tree() -> None:
    with Client("127.0.0.1:9", timeout_s=5) as nobody:
        assert not nobody.is_ready()
        with pytest.raises(Unavailable):
            nobody.generate(prompt="x")
