"""Whether a release is at rest, read from the metrics."""

from trireme_ops.releases.llm import DEFAULT_LLM, Llm
from trireme_ops.releases.rest import requests_under_way

METRICS = """\
# HELP trireme_requests_running Requests with the engine
# TYPE trireme_requests_running gauge
trireme_requests_running{model="tensorrt_llm",version="1",release="r1"} 3
trireme_requests_running{model="tensorrt_llm",version="1",release=""} 5
trireme_requests_waiting{release="r1",model="tensorrt_llm",version="1"} 2
trireme_requests_running{model="tiny_tensorrt_llm",version="1",release="r1"} 7
nv_inference_exec_count{model="postprocessing@r1",version="1"} 100
nv_inference_exec_count{model="postprocessing",version="1"} 1000
nv_inference_exec_count{model="preprocessing@r1",version="1"} 10
nv_inference_pending_request_count{model="tensorrt_llm@r1",version="1"} 1
nv_inference_exec_count{model="ensemble@r1",version="1"} 10000
"""


def test_only_what_belongs_to_the_release_counts() -> None:
    llm = Llm.named(DEFAULT_LLM)
    assert requests_under_way(METRICS, llm, "r1") == (5, 111)
    assert requests_under_way(METRICS, llm, None) == (5, 1000)
    assert requests_under_way(METRICS, llm, "r2") == (0, 0)
    assert requests_under_way(METRICS, Llm.named("tiny"), "r1") == (7, 0)
