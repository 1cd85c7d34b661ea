from trireme_load.definitions import DEFINITIONS
from trireme_load.summary import LATENCIES, schema

#: Defined for comparisons, which a summary does not hold.
ELSEWHERE = {"interval"}


def test_every_definition_is_of_a_figure_and_has_a_source() -> None:
    keys = {one.key for one in DEFINITIONS}
    assert len(keys) == len(DEFINITIONS)
    assert keys - ELSEWHERE <= set(schema()["properties"])
    assert all(one.source and one.text.endswith(".") for one in DEFINITIONS)


def test_every_figure_is_defined() -> None:
    figures = {*LATENCIES, "requests", "requests_per_s", "tokens_per_s", "goodput", "errors", "timeline", "measured_s"}
    assert figures <= {one.key for one in DEFINITIONS}
