"""Whether the models of a release have answered everything that they were asked."""

import re
from collections.abc import Callable

from ..at_rest import wait_for_rest
from ..server import ControlError, EmbeddedServer
from .llm import Llm, scoped

_COUNTS = ("nv_inference_exec_count", "nv_inference_pending_request_count")
_SAMPLE = re.compile(r"([a-zA-Z_:]+)\{(.*)\} (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def wait_until_answered(
    server: EmbeddedServer,
    llm: Llm,
    release: str | None,
    timeout_s: float,
    wanted: Callable[[], bool] = lambda: True,
) -> bool:
    """Wait until no request is with a release's models; False if there is one after `timeout_s`, or none `wanted` it.

    It must not be behind the public names any more. A server that does not answer has nothing under way.
    """
    try:
        return wait_for_rest(lambda: requests_under_way(server.metrics_text(), llm, release), timeout_s, wanted)
    except (OSError, ControlError):
        return True


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
