"""What the gateway counts, for Prometheus."""

import contextlib

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from .objectives import Outcome

#: In s.
_LATENCY_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)

#: In s, finer where tokens follow each other.
_TPOT_BUCKETS = (
    0.001,
    0.002,
    0.005,
    0.01,
    0.015,
    0.02,
    0.03,
    0.04,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.5,
    1.0,
    2.0,
    5.0,
)

#: How many tenants have series of their own; what others do is counted together.
_MAX_TENANTS = 1000
_OTHER_TENANTS = "(others)"

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Of one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "trireme_gateway_requests",
            "Requests by endpoint, model and HTTP status; 499: the client left",
            ["endpoint", "model", "status"],
            registry=registry,
        )
        self._duration = Histogram(
            "trireme_gateway_request_seconds",
            "From a request's arrival to the end of its answer",
            ["endpoint", "model"],
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self._ttft = Histogram(
            "trireme_gateway_time_to_first_token_seconds",
            "From a request's arrival until its first pieces come from a server or the cache",
            ["model", "release", "cache", "streamed"],
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self._tpot = Histogram(
            "trireme_gateway_time_per_output_token_seconds",
            "Of streams that a server computed: from the first piece to the end, for each further token",
            ["model", "release"],
            buckets=_TPOT_BUCKETS,
            registry=registry,
        )
        self._slo = Counter(
            "trireme_gateway_slo_requests",
            "Requests by whether they kept the objectives: good, slow or failed",
            ["model", "release", "outcome"],
            registry=registry,
        )
        self._queue_seconds = Histogram(
            "trireme_gateway_queue_seconds",
            "How long requests waited for room on a server",
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self._tokens = Counter(
            "trireme_gateway_tokens",
            "Tokens of prompts and answers that servers have computed, each once, whoever reads them",
            ["model", "release", "kind"],
            registry=registry,
        )
        self._cache = Counter(
            "trireme_gateway_cache", "Requests by what the cache did for them", ["outcome"], registry=registry
        )
        self._cache_errors = Counter("trireme_gateway_cache_errors", "Times that Redis failed", registry=registry)
        self._retries = Counter(
            "trireme_gateway_retries",
            "Requests that a server failed and another one was asked",
            ["server"],
            registry=registry,
        )
        self._ejections = Counter(
            "trireme_gateway_ejections", "Times that a server was left out for failures", ["server"], registry=registry
        )
        self._ready = Gauge(
            "trireme_gateway_server_ready", "1 while a server can be asked", ["server"], registry=registry
        )
        self._in_flight = Gauge("trireme_gateway_requests_running", "Requests being answered", registry=registry)
        self._waiting = Gauge("trireme_gateway_requests_waiting", "Requests that wait for room", registry=registry)
        self._connections = Gauge("trireme_gateway_connections", "Open connections", registry=registry)
        self._cut = Counter(
            "trireme_gateway_connections_cut", "Connections that were cut, by reason", ["reason"], registry=registry
        )
        self._shadow = Counter(
            "trireme_gateway_shadow_requests",
            "Copies of requests to a release on trial, by outcome",
            ["release", "outcome"],
            registry=registry,
        )
        self._shadow_ttft = Histogram(
            "trireme_gateway_shadow_time_to_first_token_seconds",
            "Of the copies",
            ["release"],
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self._unauthorized = Counter(
            "trireme_gateway_unauthorized", "Requests without a key that is valid", registry=registry
        )
        self._over_quota = Counter(
            "trireme_gateway_over_quota", "Requests that a quota refused, by its code", ["code"], registry=registry
        )
        self._quota_errors = Counter(
            "trireme_gateway_quota_errors", "Times that Redis failed where quotas are counted", registry=registry
        )
        self._accounts_age = Gauge(
            "trireme_gateway_accounts_age_seconds", "Since keys and tenants were read", registry=registry
        )
        self._tenant_requests = Counter(
            "trireme_gateway_tenant_requests",
            "Requests of known callers, by their key's tenant; without keys it is empty",
            ["tenant", "status"],
            registry=registry,
        )
        self._tenant_tokens = Counter(
            "trireme_gateway_tenant_tokens",
            "Tokens that tenants were told; cached: those of both kinds that were not computed for them",
            ["tenant", "kind"],
            registry=registry,
        )
        self._tenant_cost = Counter(
            "trireme_gateway_tenant_cost",
            "What tenants' requests cost by the price table",
            ["tenant", "model", "currency"],
            registry=registry,
        )
        self._tenants: set[str] = set()
        self._ledger_rows = Counter("trireme_gateway_ledger_rows", "Rows written to the ledger", registry=registry)
        self._ledger_lost = Counter(
            "trireme_gateway_ledger_lost",
            "Rows that the ledger lacks, of processes before this one, too",
            registry=registry,
        )
        self._ledger_waiting = Gauge(
            "trireme_gateway_ledger_waiting", "Rows that are not written yet", registry=registry
        )
        self._ledger_failing = Gauge(
            "trireme_gateway_ledger_failing", "1 while the ledger cannot be written", registry=registry
        )
        self._certificate_expires: Gauge | None = None
        for outcome in ("hit", "miss", "joined", "bypass"):
            self._cache.labels(outcome)
        self._running = 0

    def began(self) -> None:
        """A request began."""
        self._running += 1

    def ended(self, endpoint: str, model: str, status: int, seconds: float) -> None:
        """And ended."""
        self._running -= 1
        self._requests.labels(endpoint, model, status).inc()
        self._duration.labels(endpoint, model).observe(seconds)

    def first_token(self, model: str, release: str, cache: str, streamed: bool, seconds: float) -> None:
        """The first pieces of an answer are there; all of it, where it is not streamed."""
        self._ttft.labels(model, release, cache, "true" if streamed else "false").observe(seconds)

    def serves(self, model: str) -> None:
        """A model is named by the settings: what fails before it has a release is counted from 0 on."""
        for outcome in Outcome:
            self._slo.labels(model, "", outcome.value)

    def judged(self, model: str, release: str, outcome: str) -> None:
        """Whether a request kept the objectives."""
        self._slo.labels(model, release, outcome).inc()

    def token_time(self, model: str, release: str, seconds: float) -> None:
        """How long each further token of a stream took."""
        self._tpot.labels(model, release).observe(seconds)

    def of_tenant(
        self, tenant: str, model: str, status: int, tokens: tuple[int, int, int], cost: float, currency: str
    ) -> None:
        """A request of a known caller has ended. tokens: of the prompt, of the answer, and those not computed."""
        if tenant not in self._tenants:
            tenant = tenant if len(self._tenants) < _MAX_TENANTS else _OTHER_TENANTS
            self._tenants.add(tenant)
        self._tenant_requests.labels(tenant, status).inc()
        for kind, count in zip(("prompt", "answer", "cached"), tokens, strict=True):
            self._tenant_tokens.labels(tenant, kind).inc(count)
        self._tenant_cost.labels(tenant, model, currency).inc(cost)

    def cached(self, outcome: str) -> None:
        """What the cache does for a request."""
        self._cache.labels(outcome).inc()

    def tokens(self, model: str, release: str, prompt: int, answer: int) -> None:
        """An answer has ended."""
        self._tokens.labels(model, release, "prompt").inc(prompt)
        self._tokens.labels(model, release, "answer").inc(answer)

    def queued(self, seconds: float) -> None:
        """A request has waited for so long."""
        self._queue_seconds.observe(seconds)

    def cache_failed(self) -> None:
        """Redis did not answer."""
        self._cache_errors.inc()

    def retried(self, server: str) -> None:
        """A request goes to another server than this one."""
        self._retries.labels(server).inc()

    def ejected(self, server: str) -> None:
        """A server is left out."""
        self._ejections.labels(server).inc()

    def server_ready(self, server: str, ready: bool) -> None:
        """Whether a server can be asked."""
        self._ready.labels(server).set(float(ready))

    def server_gone(self, server: str) -> None:
        """A server is named no more."""
        with contextlib.suppress(KeyError):
            self._ready.remove(server)

    def cut(self, reason: str) -> None:
        """A connection was cut."""
        self._cut.labels(reason).inc()

    def certificate_expires(self, unix_s: float) -> None:
        """A certificate is served; without one, there is no such metric."""
        if self._certificate_expires is None:
            self._certificate_expires = Gauge(
                "trireme_gateway_certificate_expires_seconds",
                "Unix time at which the served certificate ends",
                registry=self.registry,
            )
        self._certificate_expires.set(unix_s)

    def shadowed(self, release: str, outcome: str, ttft_s: float | None) -> None:
        """A copy of a request was answered, or not."""
        self._shadow.labels(release, outcome).inc()
        if ttft_s is not None:
            self._shadow_ttft.labels(release).observe(ttft_s)

    def unauthorized(self) -> None:
        """A request had no valid key."""
        self._unauthorized.inc()

    def over_quota(self, code: str) -> None:
        """A quota refused a request."""
        self._over_quota.labels(code).inc()

    def quota_lost(self) -> None:
        """Redis did not count."""
        self._quota_errors.inc()

    def accounts(self, age_s: float, waiting: int) -> None:
        """How old what is known of keys is, and how many rows of the ledger wait."""
        self._accounts_age.set(age_s)
        self._ledger_waiting.set(waiting)

    def ledger_wrote(self, rows: int) -> None:
        """Rows are in the ledger."""
        self._ledger_rows.inc(rows)

    def ledger_lost(self, rows: int) -> None:
        """Rows will never be."""
        self._ledger_lost.inc(rows)

    def ledger_failing(self, failing: bool) -> None:
        """Whether rows cannot be written."""
        self._ledger_failing.set(float(failing))

    def text(self, waiting: int, connections: int) -> bytes:
        """In Prometheus' format."""
        self._in_flight.set(self._running)
        self._waiting.set(waiting)
        self._connections.set(connections)
        return generate_latest(self.registry)
