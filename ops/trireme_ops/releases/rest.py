"""Whether the models of a release have answered everything that they were asked."""

import re
import time
from collections.abc import Callable

from ..server import ControlError, EmbeddedServer
from .llm import Llm, scoped

#: For how long nothing may be under way until a release counts as at rest: its gauges come a moment late.
_REST_S = 0.5
_POLL_S = 0.05

_COUNTS = ("nv_inference_exec_count", "nv_inference_pending_request_count")
_SAMPLE = re.compile(r"([a-zA-Z_:]+)\{(.*)\} (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def wait_for_rest(
    server: EmbeddedServer,
    llm: Llm,
    release: str | None,
    timeout_s: float,
    wanted: Callable[[], bool] = lambda: True,
) -> bool:
    """Wait until no request is with a release's models; False if there is one after `timeout_s`, or none `wanted` it.

    It must not be behind the public names any more. A server that does not answer has nothing under way.
    """
    deadline = time.monotonic() + timeout_s
    seen: tuple[float, float] | None = None
    rest_since = time.monotonic()
    while time.monotonic() < deadline and wanted():
        try:
            under_way = requests_under_way(server.metrics_text(), llm, release)
        except (OSError, ControlError):
            return True
        if under_way[0] or under_way != seen:
            rest_since = time.monotonic()
        elif time.monotonic() - rest_since > _REST_S:
            return True
        seen = under_way
        time.sleep(_POLL_S)
    return False


def requests_under_way(metrics: str, llm: Llm, release: str | None) -> tuple[float, float]:
    """How many generations run or wait in a release, and how often its models have been executed."""
    names = {scoped(model, release) for model in llm.steps}
    running = executions = 0.0
    for line in metrics.splitlines():
        match = _SAMPLE.match(line)
        if match is None:
            continue
        labels = dict(_LABEL.findall(match[2]))
        if match[1] in ("trireme_requests_running", "trireme_requests_waiting"):
            if labels.get("model") == llm.engine and labels.get("release", "") == (release or ""):
                running += float(match[3])
        elif match[1] in _COUNTS and labels.get("model") in names:
            executions += float(match[3])
    return running, executions
