import pickle

import pytest

from trireme_runtime.contract import Code, Refusal, parse_refusal


@pytest.mark.parametrize("code", list(Code))
def test_a_refusal_survives_its_own_text(code: Code) -> None:
    parsed = parse_refusal(str(Refusal(code, "top_p is 2; allowed is 0 to 1")))
    assert parsed is not None
    assert (parsed.code, parsed.message, parsed.retry_after_ms) == (code, "top_p is 2; allowed is 0 to 1", None)


def test_a_refusal_survives_the_way_from_the_engines_process() -> None:
    copy = pickle.loads(pickle.dumps(Refusal(Code.RESOURCE_EXHAUSTED, "full", retry_after_ms=5)))
    assert str(copy) == "[RESOURCE_EXHAUSTED retry_after_ms=5] full"


def test_retry_after_is_carried() -> None:
    parsed = parse_refusal(str(Refusal(Code.RESOURCE_EXHAUSTED, "the queue is full", retry_after_ms=250)))
    assert parsed is not None
    assert parsed.retry_after_ms == 250


def test_a_refusal_is_found_behind_what_the_ensemble_puts_in_front() -> None:
    parsed = parse_refusal("in ensemble 'ensemble', [INVALID_ARGUMENT] text_input is empty")
    assert parsed is not None
    assert parsed.message == "text_input is empty"


@pytest.mark.parametrize("text", ["", "some other error", "[WEIRD] x", "[request id: 7] unexpected inference input"])
def test_other_texts_are_no_refusal(text: str) -> None:
    assert parse_refusal(text) is None
