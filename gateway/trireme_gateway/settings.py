"""What a gateway is told: a TOML file, and options of the command line over it."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trireme_runtime.toml_file import TomlError, problems, read_toml

from .accounts.quota import NANO, Quota
from .errors import SettingError

DEFAULT_GRPC = "127.0.0.1:8001"
DEFAULT_HEALTH = "127.0.0.1:8003"

Address = Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[^\s:\[\]]+):\d{1,5}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@/-]{0,127}$")]
Percent = Annotated[float, Field(gt=0, le=100)]


class Policy(str, Enum):
    """How one of several servers is chosen."""

    ROUND_ROBIN = "round_robin"
    LEAST_IN_FLIGHT = "least_in_flight"
    POWER_OF_TWO = "power_of_two"
    SESSION = "session"
    PREFIX = "prefix"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerAddress(_Table):
    """One Triton server. health: host:port of its supervisor; without it, Triton's own readiness is asked for."""

    name: Name
    grpc: Address
    health: Address | None = None


class ModelName(_Table):
    """A model of the API. llm: the ensemble behind it. context_tokens: what its context holds, if that is known."""

    id: Name
    llm: Name
    context_tokens: Annotated[int, Field(ge=1)] | None = None


class Share(_Table):
    """A release of an LLM that gets, or is copied, a share of its requests."""

    llm: Name = "ensemble"
    release: Name
    percent: Percent


class CacheSettings(_Table):
    """The exact cache. max_bytes: of all answers in memory; max_entry_bytes: of one. timeout_ms: for Redis."""

    kind: Literal["memory", "redis", "none"] = "memory"
    url: str = "redis://127.0.0.1:6379/0"
    ttl_s: Annotated[float, Field(gt=0, le=30 * 86_400)] = 3600
    max_bytes: Annotated[int, Field(ge=1 << 16)] = 64 << 20
    max_entry_bytes: Annotated[int, Field(ge=1 << 10)] = 1 << 20
    timeout_ms: Annotated[int, Field(ge=1, le=10_000)] = 100


class QueueSettings(_Table):
    """What waits for room on the servers, for each LLM.

    max_size: requests. max_delay_ms: how long one may be expected to wait. spare_sequences: by how many sequences a
    server may have more than its engine takes at once, so that the next one is there when one ends. reserve_tokens:
    what a request without max_tokens is expected to take.
    """

    max_size: Annotated[int, Field(ge=1, le=100_000)] = 1024
    max_delay_ms: Annotated[int, Field(ge=1, le=3_600_000)] = 10_000
    spare_sequences: Annotated[int, Field(ge=0, le=1024)] = 4
    reserve_tokens: Annotated[int, Field(ge=1)] = 512


class Limits(_Table):
    """What clients may ask of the gateway itself. Bodies in bytes, times in s."""

    max_body_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = 4 << 20
    max_header_bytes: Annotated[int, Field(ge=1024, le=1 << 20)] = 64 << 10
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 8192
    header_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    body_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    write_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    request_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    max_prompts: Annotated[int, Field(ge=1, le=1024)] = 32
    max_choices: Annotated[int, Field(ge=1, le=1024)] = 32


class TraceSettings(_Table):
    """endpoint: the base URL of a collector that takes OTLP over HTTP; without it, what the environment's variables of
    OpenTelemetry say, if anything. sample: the share of the requests whose clients do not decide about that.
    """

    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s/]+\S*$")] | None = None
    sample: Annotated[float, Field(ge=0, le=1)] = 1.0


class HealthSettings(_Table):
    """How servers are looked at. failures: in a row, after which one is left out for eject_s, doubled each time."""

    interval_s: Annotated[float, Field(gt=0, le=60)] = 0.5
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 2.0
    failures: Annotated[int, Field(ge=1)] = 3
    eject_s: Annotated[float, Field(gt=0)] = 1.0
    max_eject_s: Annotated[float, Field(gt=0)] = 30.0


class SloSettings(_Table):
    """What a request must keep to be good: until its first token, and for each further one."""

    ttft_ms: Annotated[float, Field(gt=0, le=3_600_000)] = 1000.0
    tpot_ms: Annotated[float, Field(gt=0, le=3_600_000)] = 100.0


class KeySettings(_Table):
    """required: whether a key must be shown; unset: as soon as the database holds one, be it revoked."""

    required: bool | None = None


class QuotaTable(_Table):
    """What a key or a tenant may have that has no quota of its own. monthly_budget: in units of the currency."""

    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    max_concurrent: Annotated[int, Field(ge=1)] | None = None
    monthly_budget: Annotated[float, Field(ge=0, le=1e9)] | None = None

    @property
    def quota(self) -> Quota:
        """As keys and tenants have it."""
        budget = None if self.monthly_budget is None else round(NANO * self.monthly_budget)
        return Quota(self.requests_per_minute, self.tokens_per_minute, self.max_concurrent, budget)


class SharedSettings(_Table):
    """Where quotas are counted. when_lost: without Redis each gateway counts alone (open), or answers 503 (shut)."""

    kind: Literal["memory", "redis"] = "memory"
    url: Annotated[str, Field(pattern=r"^(rediss?|unix)://")] = "redis://127.0.0.1:6379/0"
    timeout_ms: Annotated[int, Field(ge=1, le=10_000)] = 100
    when_lost: Literal["open", "shut"] = "open"


class QuotaSettings(_Table):
    """Quotas of those keys and tenants that have none of their own."""

    key: QuotaTable = QuotaTable()
    tenant: QuotaTable = QuotaTable()
    shared: SharedSettings = SharedSettings()


class Price(_Table):
    """Of a model's tokens, in units of the currency for a million. cached: of what was not computed for a request."""

    model: Name
    input: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    output: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    cached: Annotated[float, Field(ge=0, le=1e6)] = 0.0


class LedgerSettings(_Table):
    """One row for each request. flush_ms: how long rows wait to be written. max_waiting: how many may, where they
    cannot be written; then requests go on without, or are refused. keep_days: unset: for ever."""

    enabled: bool = True
    flush_ms: Annotated[int, Field(ge=10, le=1000)] = 250
    max_waiting: Annotated[int, Field(ge=1)] = 100_000
    when_full: Literal["go_on", "stop"] = "go_on"
    keep_days: Annotated[float, Field(gt=0)] | None = None


class TranscriptSettings(_Table):
    """Prompts and answers, redacted; off. phone_region: whose numbers are known without a +."""

    enabled: bool = False
    keep_days: Annotated[float, Field(gt=0)] = 30.0
    phone_region: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] = "US"


class TlsSettings(_Table):
    """Files in PEM. certificate: the server's, and what is between it and its root. client_ca: who signs for clients;
    without it, clients need no certificate."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


class Settings(_Table):
    """Everything.

    prefix_chars: of the prompt, by which the policy `prefix` chooses. drain_s: at the end. database: a URL; "": of the
    variable TRIREME_DATABASE, or a file of SQLite in the state folder. insecure: listen on a public address without
    keys. currency: of prices and budgets.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    policy: Policy = Policy.LEAST_IN_FLIGHT
    prefix_chars: Annotated[int, Field(ge=1)] = 256
    drain_s: Annotated[float, Field(ge=0)] = 30.0
    access_log: bool = True
    database: str = ""
    insecure: bool = False
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    server: tuple[ServerAddress, ...] = (ServerAddress(name="local", grpc=DEFAULT_GRPC, health=DEFAULT_HEALTH),)
    model: tuple[ModelName, ...] = (ModelName(id="ensemble", llm="ensemble"),)
    canary: tuple[Share, ...] = ()
    shadow: tuple[Share, ...] = ()
    cache: CacheSettings = CacheSettings()
    queue: QueueSettings = QueueSettings()
    limits: Limits = Limits()
    health: HealthSettings = HealthSettings()
    slo: SloSettings = SloSettings()
    keys: KeySettings = KeySettings()
    quota: QuotaSettings = QuotaSettings()
    price: tuple[Price, ...] = ()
    ledger: LedgerSettings = LedgerSettings()
    transcripts: TranscriptSettings = TranscriptSettings()
    tls: TlsSettings | None = None
    traces: TraceSettings = TraceSettings()

    @model_validator(mode="after")
    def _fits_together(self) -> "Settings":
        for kind, names in (("server", [one.name for one in self.server]), ("model", [one.id for one in self.model])):
            if not names:
                raise ValueError(f"there is no {kind}; at least one is needed")
            if double := next((name for name in names if names.count(name) > 1), None):
                raise ValueError(f"there are two {kind}s {double!r}")
        names = [model.id for model in self.model]
        if double := next(
            (one.model for one in self.price if [p.model for p in self.price].count(one.model) > 1), None
        ):
            raise ValueError(f"price: there are two for the model {double!r}")
        for price in self.price:
            if price.model not in names:
                raise ValueError(f"price: there is no model {price.model!r}; there are {', '.join(names)}")
        for kind, shares in (("canary", self.canary), ("shadow", self.shadow)):
            for llm in {share.llm for share in shares}:
                if llm not in self.llms:
                    raise ValueError(
                        f"{kind}: there is no model with the LLM {llm!r}; there are {', '.join(self.llms)}"
                    )
                if (total := sum(share.percent for share in shares if share.llm == llm)) > 100:
                    raise ValueError(f"{kind}: the shares of {llm} come to {total:g} %; at most 100 are possible")
        return self

    @property
    def llms(self) -> tuple[str, ...]:
        """The LLMs behind all models."""
        return tuple(dict.fromkeys(model.llm for model in self.model))


def read_settings(path: Path | None, over: dict[str, Any]) -> Settings:
    """Settings from a file, or the defaults; `over` replaces keys of its top level. Raises SettingError."""
    try:
        values = read_toml(path) if path is not None else {}
        return Settings.model_validate({**values, **over})
    except TomlError as error:
        raise SettingError(str(error)) from None
    except ValidationError as error:
        raise SettingError(f"{path}: {problems(error)}" if path is not None else problems(error)) from None
