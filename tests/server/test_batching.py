import pytest

from raw import Raw, infer_request
from support import Server


@pytest.mark.alone
def test_tokenization_of_requests_that_come_together_is_batched(server: Server, raw: Raw) -> None:
    """Different lengths and optional tensors do not keep 32 concurrent requests from being tokenized together."""
    requests = [
        infer_request(
            "ensemble",
            text_input="x" * (1 + i % 40),
            max_tokens=1 + i % 3,
            **({"temperature": 0.5} if i % 2 else {}),
            **({"seed": i} if i % 3 else {}),
            **({"stop_words": ["y", "zz"]} if i % 5 == 0 else {}),
            **({"bad_words": ["q"]} if i % 7 == 0 else {}),
            **({"return_log_probs": True} if i % 11 == 0 else {}),
        )
        for i in range(32)
    ]

    def burst() -> float:
        before = counts()
        answers = list(raw.stub.ModelStreamInfer(iter(requests), timeout=60))
        assert not [answer.error_message for answer in answers if answer.error_message]
        assert len(answers) == 32
        inferences, executions = (after - then for after, then in zip(counts(), before, strict=True))
        assert inferences == 32
        return inferences / executions

    def counts() -> tuple[float, ...]:
        names = ("nv_inference_count", "nv_inference_exec_count")
        return tuple(server.metric(f'{name}{{model="preprocessing",version="1"}}') for name in names)

    # The machine may be busy with something else for a moment.
    assert max(burst() for _ in range(4)) >= 8
