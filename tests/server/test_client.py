"""trireme_client covers the contract, with types."""

import asyncio
import dataclasses

import pytest

from raw import ask
from support import Server, wait_for
from trireme_client import AsyncClient, Client, Completion, DeadlineExceeded, Generation, Guide, InvalidArgument

SEVERAL = Generation(prompt=ask("Repeat: xyz"), max_tokens=12, temperature=8.0, seed=5, n=3, log_probs=True)


def test_several_answers_with_log_probs(client: Client) -> None:
    whole = client.generate(SEVERAL)
    assert len(whole.answers) == 3
    assert whole.text == whole.answers[0].text
    for answer in whole.answers:
        assert answer.log_probs is not None
        assert answer.cum_log_prob == pytest.approx(sum(answer.log_probs), abs=1e-3)
    assert whole.num_output_tokens == sum(len(answer.log_probs or ()) for answer in whole.answers)
    with client.stream(SEVERAL) as stream:
        assert {delta.index for delta in stream} == {0, 1, 2}
    streamed = stream.completion
    assert [answer.text for answer in streamed.answers] == [answer.text for answer in whole.answers]
    for ours, theirs in zip(streamed.answers, whole.answers, strict=True):
        assert ours.log_probs == pytest.approx(theirs.log_probs, abs=1e-4)


def test_log_probs_of_answers_with_the_prompt_in_front(client: Client) -> None:
    echoed = client.generate(dataclasses.replace(SEVERAL, echo=True))
    plain = client.generate(SEVERAL)
    for ours, theirs in zip(echoed.answers, plain.answers, strict=True):
        assert ours.text.endswith(theirs.text)
        assert ours.log_probs == pytest.approx(theirs.log_probs, abs=1e-4)


def test_sync_and_async_give_the_same(server: Server, client: Client) -> None:
    async def ask_both() -> tuple[Completion, Completion]:
        async with AsyncClient(server.grpc, timeout_s=60) as connected:
            whole = await connected.generate(SEVERAL)
            async with connected.stream(SEVERAL) as stream:
                async for _ in stream:
                    pass
            return whole, stream.completion

    texts = [[answer.text for answer in completion.answers] for completion in asyncio.run(ask_both())]
    assert texts == [[answer.text for answer in client.generate(SEVERAL).answers]] * 2


@pytest.mark.parametrize(
    ("guide", "texts"),
    [
        (Guide.choice(["yes", "no"]), {"yes", "no"}),
        (Guide.regex("[ab]{2}"), {"aa", "ab", "ba", "bb"}),
        (Guide.grammar('root ::= "x" | "yy"'), {"x", "yy"}),
        (Guide.json_schema({"type": "boolean"}), {"true", "false"}),
    ],
)
def test_guides(client: Client, guide: Guide, texts: set[str]) -> None:
    assert client.generate(prompt=ask("Reverse: abc"), max_tokens=20, guide=guide).text in texts


def test_a_json_object(client: Client) -> None:
    answer = client.generate(prompt=ask("Repeat: {}"), max_tokens=30, guide=Guide.json_object())
    assert answer.text.startswith("{")


def test_beams_words_penalties_and_metrics(client: Client) -> None:
    answer = client.generate(
        prompt=ask("Sort: 9 3 7 1"),
        max_tokens=12,
        beam_width=3,
        n=2,
        length_penalty=1.0,
        metrics=True,
    )
    assert answer.text == "1 3 7 9"
    assert len(answer.answers) == 2
    assert answer.metrics is not None
    assert answer.metrics.arrival_time_ns <= answer.metrics.last_token_time_ns
    words = client.generate(
        prompt=ask("Sort: 9 3 7 1"),
        max_tokens=12,
        bad_words=("7",),
        min_tokens=2,
        repetition_penalty=1.1,
        presence_penalty=0.1,
        frequency_penalty=0.1,
        ignore_eos=False,
        priority=3,
        deadline_ms=60_000,
        tensors={"pad_id": [2], "return_num_input_tokens": [True]},
    )
    assert "7" not in words.text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tensors": {"tempratur": [1.0]}}, "'tempratur' is no input"),
        ({"tensors": {"max_tokens": [1]}}, "'max_tokens' is given twice"),
        ({"tensors": {"lora_task_id": [1]}}, "lora_task_id 1 is not supported by the engine openvino"),
        ({"stop": "abc"}, "stop_words is the text 'abc'"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
    ],
)
def test_what_cannot_be_sent_or_honoured_is_an_invalid_argument(
    client: Client, fields: dict[str, object], words: str
) -> None:
    with pytest.raises(InvalidArgument, match=words):
        client.generate(prompt="x", max_tokens=2, **fields)


def test_an_answer_that_is_given_up_is_cancelled(server: Server, client: Client) -> None:
    with pytest.raises(DeadlineExceeded, match="deadline_ms: 1 ms have passed"):
        client.generate(prompt="x", max_tokens=1900, end_id=-1, deadline_ms=1)
    with Client(server.grpc, timeout_s=0.3) as hasty, pytest.raises(DeadlineExceeded):
        hasty.generate(prompt=ask("Count from 1 to 60."), max_tokens=2000, ignore_eos=True)
    wait_for(lambda: server.metric("trireme_requests_running") == 0)
