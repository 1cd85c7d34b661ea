"""What a release did, from the metrics of its server."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support import Server, wait_for
from trireme_client import Client
from trireme_ops.errors import OperatorError
from trireme_ops.ports import free_ports
from trireme_ops.releases.watch import Histogram, Limits, ReleaseFigures, Sample, breach, figures, scrape

LIMITS = Limits(max_error_rate=0.01, max_ttft_ratio=1.3, min_requests=50)


def metrics(release: str, right: int, failed: int = 0, unavailable: int = 0, full: int = 0, version: int = 2) -> str:
    """Metrics as Triton writes them: a model's process describes its own."""
    labels = f'model="tensorrt_llm",release="{release}",version="{version}"'
    return f"""# HELP nv_inference_request_success Number of successful inference requests
# TYPE nv_inference_request_success counter
nv_inference_request_success{{model="tensorrt_llm",version="2"}} 5
# HELP trireme_requests_finished_total Requests that ended, by finish reason
# TYPE trireme_requests_finished_total counter
trireme_requests_finished_total{{finish_reason="stop",{labels}}} {right}
trireme_requests_finished_total{{finish_reason="error",{labels}}} {failed}
# HELP trireme_requests_refused_total Requests that the engine model refused, by code
# TYPE trireme_requests_refused_total counter
trireme_requests_refused_total{{code="UNAVAILABLE",{labels}}} {unavailable}
trireme_requests_refused_total{{code="RESOURCE_EXHAUSTED",{labels}}} {full}
trireme_requests_refused_total{{code="INVALID_ARGUMENT",{labels}}} {full}
# HELP trireme_generated_tokens_total Token ids that the engine computed
# TYPE trireme_generated_tokens_total counter
trireme_generated_tokens_total{{{labels}}} {10 * right}
# HELP trireme_time_to_first_token_seconds From arrival to the first ids
# TYPE trireme_time_to_first_token_seconds histogram
trireme_time_to_first_token_seconds_count{{{labels}}} {right}
trireme_time_to_first_token_seconds_sum{{{labels}}} {0.02 * right}
trireme_time_to_first_token_seconds_bucket{{{labels},le="0.01"}} 0
trireme_time_to_first_token_seconds_bucket{{{labels},le="0.025"}} {right}
trireme_time_to_first_token_seconds_bucket{{{labels},le="+Inf"}} {right}
"""


def figures_of(before: str | None, after: str, release: str = "r7") -> ReleaseFigures:
    return figures(None if before is None else Sample.parse(before), Sample.parse(after), "tensorrt_llm", release)


def test_what_a_release_did_between_two_samples() -> None:
    seen = figures_of(metrics("r7", 100, 2, 3, 4), metrics("r7", 190, 6, 9, 40))
    assert (seen.requests, seen.errors, seen.tokens) == (90 + 4 + 6, 4 + 6, 900)
    assert seen.error_rate == 0.1
    assert seen.ttft_p50_s == pytest.approx(0.0175)
    assert seen.ttft_p99_s == pytest.approx(0.02485)
    assert seen.ttft_mean_s == pytest.approx(0.02)


def test_another_release_is_not_counted() -> None:
    before, after = metrics("r6", 50) + metrics("r7", 10), metrics("r6", 90) + metrics("r7", 15)
    assert figures_of(before, after, "r7").requests == 5
    assert figures_of(before, after, "r6").requests == 40
    assert figures_of(before, after, "r5").requests == 0


def test_models_that_belong_to_no_release_have_the_empty_one() -> None:
    unlabelled = metrics("", 70).replace('release="",', "")
    assert figures_of(None, metrics("", 70), "").requests == 70
    assert figures_of(None, unlabelled, "").requests == 70
    assert figures_of(None, unlabelled, "r7").requests == 0


def test_versions_are_added_up() -> None:
    before, after = metrics("r7", 50), metrics("r7", 60) + metrics("r7", 20, version=3)
    assert figures_of(before, after).requests == 30


def test_counters_that_start_again_count_from_zero() -> None:
    seen = figures_of(metrics("r7", 100, failed=1), metrics("r7", 8, failed=2))
    assert (seen.requests, seen.errors, seen.ttft.count) == (10, 2, 8)


def test_a_release_that_is_gone_did_nothing() -> None:
    seen = figures_of(metrics("r7", 100), metrics("r6", 3))
    assert (seen.requests, seen.error_rate, seen.ttft_p50_s, seen.ttft_p99_s) == (0, 0.0, None, None)


def test_refusals_of_models_in_front_count_if_asked_for() -> None:
    text = metrics("r7", 10) + 'trireme_requests_refused_total{code="INTERNAL",model="preprocessing",release="r7"} 4\n'
    sample = Sample.parse(text)
    assert figures(None, sample, "tensorrt_llm", "r7").errors == 0
    assert figures(None, sample, "tensorrt_llm", "r7", also=["preprocessing"]).errors == 4


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.75, 2.0), (0.9, 3.0), (0.99, 3.0), (1.0, 3.0)]
)
def test_quantiles(share: float, value: float) -> None:
    histogram = Histogram(((1.0, 50.0), (3.0, 100.0 - 12), (float("inf"), 100.0)), 0.0)
    assert histogram.quantile(share) == pytest.approx(value, abs=0.35)


def test_nothing_is_wrong_with_what_is_no_worse() -> None:
    same = figures_of(None, metrics("r7", 1000))
    assert breach(same, figures_of(None, metrics("r6", 1000), "r6"), LIMITS) is None
    assert breach(same, None, LIMITS) is None


def test_an_error_rate_above_the_limit() -> None:
    seen = figures_of(None, metrics("r7", 96, failed=3, unavailable=1))
    assert breach(seen, None, LIMITS) == ("the error rate of r7 is 4.00 % (4 of 100 requests); allowed are 1 %")


def test_errors_are_judged_over_the_least_number_of_requests() -> None:
    lenient = Limits(max_error_rate=0.05, min_requests=50)
    assert breach(figures_of(None, metrics("r7", 0, failed=2)), None, lenient) is None
    assert breach(figures_of(None, metrics("r7", 0, failed=3)), None, lenient) is not None


def times(release: str, count: int, seconds: float, outliers: int = 0) -> ReleaseFigures:
    """Figures of streams that all took about so long; outliers took 10 s."""
    bounds = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, float("inf"))
    buckets = tuple((bound, float(count * (seconds <= bound) + outliers * (bound > 10))) for bound in bounds)
    return ReleaseFigures(release, count, 0, 0, Histogram(buckets, count * seconds + 10 * outliers))


def test_a_ttft_above_the_limit() -> None:
    assert breach(times("r7", 100, 0.2), times("", 100, 0.02), LIMITS) == (
        "the median TTFT of r7 is 175.0 ms, 10.00 times the 17.5 ms of unreleased; allowed are 1.3 times"
    )


def test_a_few_slow_streams_are_no_slow_release() -> None:
    assert breach(times("r7", 100, 0.02, outliers=4), times("r6", 100, 0.02), LIMITS) is None


def test_the_edge_of_a_bucket_is_no_difference() -> None:
    assert breach(times("r7", 1000, 0.026), times("r6", 1000, 0.024), LIMITS) is None


@pytest.mark.parametrize(("new", "old"), [(49, 1000), (1000, 49), (0, 0)])
def test_a_ttft_of_too_few_streams_is_not_judged(new: int, old: int) -> None:
    assert breach(times("r7", new, 0.9), times("r6", old, 0.002), LIMITS) is None


@contextmanager
def answering(body: bytes, length: int | None = None) -> Iterator[str]:
    """The URL of an HTTP server that always says the same."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()
        thread.join()


def test_an_endpoint_that_is_not_there_or_breaks_off() -> None:
    with pytest.raises(OSError, match="refused"):
        scrape(f"http://127.0.0.1:{free_ports(1)[0]}/metrics")
    with answering(b"trireme_", length=100) as url, pytest.raises(OSError, match="broke off"):
        scrape(url)


def test_what_are_no_metrics() -> None:
    with answering(b"trireme_x{a=} many\n") as url, pytest.raises(OperatorError, match="metrics are not understood"):
        scrape(url)


def test_a_real_server(server: Server) -> None:
    before = scrape(server.metrics)
    with Client(server.grpc, timeout_s=60) as client:
        for _ in range(5):
            with client.stream(messages=[{"role": "user", "content": "What is 37 + 58?"}], max_tokens=8) as stream:
                list(stream)

    def seen() -> ReleaseFigures:
        return figures(before, scrape(server.metrics), "tensorrt_llm", "")

    wait_for(lambda: seen().requests >= 5 and seen().ttft.count >= 5, what="the metrics")
    found = seen()
    assert (found.requests, found.errors, found.ttft.count) == (5, 0, 5)
    assert found.tokens >= 5
    assert 0 < (found.ttft_p50_s or 0) <= (found.ttft_p99_s or 0) < 60
    assert breach(found, None, Limits()) is None
