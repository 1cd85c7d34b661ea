"""What can be set for a run: the options of `trireme load` and of `locust` with one of our scenarios."""

import argparse
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from .arrivals import Arrivals
from .errors import SettingError
from .prompts import Source
from .quantities import duration_s, number, positive_s
from .shapes import SOAK_S, Shape, parse_shape
from .slo import Slo
from .targets import NAMES as TARGETS
from .trace import Call, read_trace

#: Seconds of a run that are not measured.
DEFAULT_WARM_UP = "5s"

#: Option -> (default, what it says). All of them are texts until they are parsed, so that a web form can set them, too.
OPTIONS: Mapping[str, tuple[str, str]] = {
    "target": ("grpc", f"protocol: {', '.join(TARGETS)}"),
    "model": ("ensemble", "which LLM is asked"),
    "arrival": ("closed", "closed; or an open loop: poisson, gamma[:CV], constant, trace"),
    "rate": ("", "requests/s of an open loop"),
    "trace": ("", "JSON lines with timestamp, input_length, output_length; for --arrival trace"),
    "shape": ("constant", "constant, ramp[:FROM-TO], step[:STEPS], spike[:TIMES], soak"),
    "duration": ("", "how long is measured, after the warm-up: 60s, 5m, 1h"),
    "warm-up": (DEFAULT_WARM_UP, "how long is not measured at the begin"),
    "prompts": (
        "synthetic:128/64",
        "a file, or synthetic:PROMPT/ANSWER in tokens, also as spans: synthetic:64-256/16-64",
    ),
    "max-tokens": ("", "of each answer, where the prompts do not say"),
    "temperature": ("", "0, or nothing: greedy"),
    "slo": ("", "what counts as good: ttft=500ms,tpot=50ms,itl=200ms,e2e=10s"),
    "timeout": ("120s", "of one request"),
    "seed": ("", "of prompts and arrivals; drawn where none is given"),
    "out": ("", "folder for requests.csv, summary.json, report.html"),
    "thresholds": ("", "a thresholds.toml; the exit code is 1 if one is missed"),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add all options to a parser."""
    group = parser.add_argument_group("LLM load")
    for name, (default, text) in OPTIONS.items():
        shown = f" (default: {default})" if default else ""
        group.add_argument(f"--{name}", default=default, metavar=name.upper().replace("-", "_"), help=text + shown)


@dataclass(frozen=True)
class Settings:
    """The options of a run, parsed. users: at the most; spawn_rate: how many of them come in a second."""

    values: Mapping[str, str]
    address: str
    users: int
    spawn_rate: float
    run_time_s: float | None = None

    @classmethod
    def of(cls, options: Any) -> "Settings":
        """Of Locust's parsed options. Raises SettingError for any that makes no sense."""
        values = {name: str(getattr(options, name.replace("-", "_"), "") or "") for name in OPTIONS}
        # A form may have been left empty.
        values = {name: value or OPTIONS[name][0] for name, value in values.items()}
        values["seed"] = values["seed"] or str(secrets.randbelow(2**32))
        options.seed = values["seed"]
        if values["target"] not in TARGETS:
            raise SettingError(f"target is {values['target']!r}; allowed are {', '.join(TARGETS)}")
        # A worker has no run time of its own.
        run_time = options.run_time or getattr(options, "leader_run_time", None)
        settings = cls(
            values=values,
            address=(options.host or TARGETS[values["target"]]).strip(),
            users=int(options.num_users or 1),
            spawn_rate=float(options.spawn_rate or 1),
            run_time_s=float(run_time) if run_time else None,
        )
        settings.check()
        return settings

    def _check_address(self) -> None:
        host, colon, port = self.address.rpartition(":")
        if self.target != "grpc":
            return
        if "/" in self.address:
            raise SettingError(f"host is {self.address!r}; gRPC needs HOST:PORT, without a scheme or a path")
        if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
            raise SettingError(f"host is {self.address!r}; HOST:PORT is needed, such as {TARGETS['grpc']}")

    def check(self) -> None:
        """Raise SettingError for what makes no sense."""
        _ = self.slo, self.source, self.warm_up_s, self.duration_s, self.timeout_s, self.temperature, self.trace
        _ = self.shape, self.seed
        self._check_address()
        if self.arrivals.is_open and self.arrivals.name != "trace" and not self.values["rate"]:
            raise SettingError(f"arrival is {self.arrivals.name}; --rate says how many requests/s")
        if not self.arrivals.is_open and self.values["rate"]:
            raise SettingError("rate is for open loops: --arrival poisson, gamma or constant")
        if (self.arrivals.name == "trace") != bool(self.values["trace"]):
            raise SettingError("--arrival trace and --trace FILE belong together")

    @property
    def target(self) -> str:
        """grpc, http or openai."""
        return self.values["target"]

    @property
    def model(self) -> str:
        """The LLM."""
        return self.values["model"]

    @cached_property
    def arrivals(self) -> Arrivals:
        """When requests are sent."""
        return Arrivals.parse(self.values["arrival"])

    @cached_property
    def slo(self) -> Slo:
        """What counts as good."""
        return Slo.parse(self.values["slo"])

    @cached_property
    def source(self) -> Source:
        """Where prompts come from."""
        most = self.values["max-tokens"]
        return Source.parse(
            self.values["prompts"], int(number(most, "max-tokens", 1, 1_000_000, whole=True)) if most else None
        )

    @cached_property
    def trace(self) -> list[Call]:
        """The calls to be replayed, none where there is no trace."""
        return read_trace(Path(self.values["trace"])) if self.values["trace"] else []

    @property
    def warm_up_s(self) -> float:
        """What is not measured at the begin."""
        return duration_s(self.values["warm-up"], "warm-up")

    @property
    def duration_s(self) -> float | None:
        """How long is measured; None: until somebody stops it."""
        if self.values["duration"]:
            return positive_s(self.values["duration"], "duration")
        if self.run_time_s is not None:
            if self.run_time_s <= self.warm_up_s:
                raise SettingError(f"run-time is {self.run_time_s:g} s; the warm-up alone takes {self.warm_up_s:g} s")
            return self.run_time_s - self.warm_up_s
        if self.values["trace"]:
            return self.trace[-1].at_s - self.warm_up_s if self.trace[-1].at_s > self.warm_up_s else 1.0
        return SOAK_S if self.values["shape"] == "soak" else None

    @property
    def whole_s(self) -> float | None:
        """Warm-up and measured time."""
        return None if self.duration_s is None else self.warm_up_s + self.duration_s

    @property
    def timeout_s(self) -> float:
        """Of one request."""
        return positive_s(self.values["timeout"], "timeout")

    @property
    def temperature(self) -> float | None:
        """None: greedy."""
        text = self.values["temperature"]
        return number(text, "temperature", 0, 100) if text else None

    @property
    def seed(self) -> str:
        """Of everything that is drawn."""
        return self.values["seed"]

    @property
    def rate(self) -> float:
        """Requests/s at the most, 0 in a closed loop."""
        return number(self.values["rate"], "rate", 0.001, 1_000_000) if self.values["rate"] else 0.0

    @cached_property
    def shape(self) -> Shape:
        """The load over time, in users or requests/s. Raises SettingError where it needs an end and has none."""
        text, whole_s = self.values["shape"], self.whole_s
        if whole_s is None and text.partition(":")[0] not in ("constant", "soak"):
            raise SettingError(f"shape is {text!r}; it needs a --duration")
        if self.arrivals.is_open:
            return parse_shape(text, self.rate, whole_s or 0.0)
        # Up to a second's worth comes at once.
        ramp_up_s = self.users / self.spawn_rate if self.users > self.spawn_rate else 0.0
        return parse_shape(text, self.users, whole_s or 0.0, ramp_up_s)

    @property
    def out(self) -> Path | None:
        """Where the files go; None: nowhere."""
        return Path(self.values["out"]) if self.values["out"] else None

    def written_to(self, folder: Path) -> "Settings":
        """The same, with the files in another folder."""
        return replace(self, values={**self.values, "out": str(folder)})

    def to_json(self) -> dict[str, Any]:
        """Every option with its value."""
        return {**self.values, "host": self.address, "users": self.users, "spawn_rate": self.spawn_rate}
