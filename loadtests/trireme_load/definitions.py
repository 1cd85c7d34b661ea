"""What every figure is, and who defined it: printed in reports, and what the documentation refers to."""

from dataclasses import dataclass

_VLLM = "vLLM, benchmarks/benchmark_serving.py"
_GENAI_PERF = "NVIDIA GenAI-Perf and AIPerf, LLM metrics"
_TENE = "Gil Tene, How NOT to Measure Latency (coordinated omission)"
_DISTSERVE = "Zhong et al. 2024, DistServe, arXiv:2401.09670"
_TRITON = "Triton's statistics extension"
_EFRON = "Efron 1979, Bootstrap Methods: Another Look at the Jackknife"


@dataclass(frozen=True)
class Definition:
    """key: of summary.json. source: who uses the figure in this way."""

    key: str
    name: str
    text: str
    source: str


DEFINITIONS = (
    Definition(
        "measured_s",
        "Measured time",
        "The time after the warm-up, as long as was asked for, or until the last request ended if a run ended early. "
        "Latencies are of the requests that were to be sent in it, even if their answers came later.",
        _GENAI_PERF,
    ),
    Definition(
        "ttft",
        "TTFT, time to first token",
        "From when a request was to be sent until its first message with text came. Only streamed requests that "
        "succeeded have one. Because it counts from the intended time, a sender that is held up by a slow server "
        "hides nothing.",
        f"{_VLLM}; {_TENE}",
    ),
    Definition(
        "tpot",
        "TPOT, time per output token",
        "From the first to the last message with text, divided by the output tokens less one: one value a request. "
        "An answer of one token has none.",
        f"{_VLLM}; {_DISTSERVE}",
    ),
    Definition(
        "itl",
        "ITL, inter-token latency",
        "Between two successive messages with text, over all gaps of all streamed requests that succeeded. A message "
        "can hold several tokens, so ITL can be longer than TPOT.",
        f"{_VLLM}; {_GENAI_PERF}",
    ),
    Definition(
        "e2e",
        "E2E, end-to-end latency",
        "From when a request was to be sent until it was over, of requests that succeeded.",
        f"{_GENAI_PERF} (request latency); {_TENE}",
    ),
    Definition(
        "queue",
        "Queue time",
        "How long a request waited in the server before it was worked on, as the server says itself.",
        f"{_TRITON} (queue)",
    ),
    Definition(
        "sent_late",
        "Sent late",
        "From when a request was to be sent until it was: how much the load generator added. In a closed loop it is 0.",
        _TENE,
    ),
    Definition(
        "requests",
        "Requests",
        "Those that were to be sent in the measured time. Succeeded: answered to the end. Cancelled: the client left "
        "on purpose, which is neither a success nor a failure. Failed: all others; they are in no latency figure.",
        _VLLM,
    ),
    Definition(
        "requests_per_s",
        "Requests/s",
        "Requests that succeeded and ended within the measured time, by its length, whenever they were sent.",
        f"{_VLLM} (request throughput)",
    ),
    Definition(
        "tokens_per_s",
        "Output tokens/s",
        "The output tokens of requests that did not fail, spread evenly from the first to the last message of each, as "
        "far as they lie within the measured time, by its length. An answer that did not stream counts when it ended. "
        "Per user: the output tokens of one streamed request by its end-to-end latency.",
        f"{_VLLM} (output token throughput); {_GENAI_PERF} (output token throughput per user)",
    ),
    Definition(
        "goodput",
        "Goodput",
        "Requests that succeeded within every objective (SLO). Its share is of all that were not cancelled, failed "
        "ones included; its rate counts as requests/s does. Without an objective every success is good.",
        _DISTSERVE,
    ),
    Definition(
        "errors",
        "Errors",
        "Requests that failed, by code. The share is of all that were not cancelled.",
        _VLLM,
    ),
    Definition(
        "timeline",
        "Timeline",
        "The run in at most 120 intervals of equal width, warm-up included. TTFT is of the requests that were to be "
        "sent in an interval; errors and requests/s count where they ended; in flight is the mean.",
        _GENAI_PERF,
    ),
    Definition(
        "interval",
        "95 % interval",
        "Percentile bootstrap with a fixed seed. Requests are drawn with all their gaps, and throughput by intervals "
        "of the timeline. Requests are taken as independent; one run says nothing of how much runs differ.",
        _EFRON,
    ),
)
