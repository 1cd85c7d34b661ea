"""Runs and requests of load tests, made up."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trireme_load.record import Record
from trireme_load.run import Generator, Run
from trireme_load.slo import Slo

NASTY = "<script>alert('é')</script> & $\\frac{a}{b}$ \"quoted\" 東京"


def request(intended_s: float = 0.0, **values: Any) -> Record:
    """A streamed one that was answered: first token after 0.1 s, then two more after 0.05 s each."""
    first = values.setdefault("first_token_s", intended_s + 0.1)
    last = values.setdefault("last_token_s", None if first is None else first + 0.1)
    made = {
        "scenario": "chat",
        "model": "ensemble",
        "target": "grpc",
        "streamed": first is not None,
        "worker": 0,
        "user": 0,
        "intended_s": intended_s,
        "sent_s": intended_s,
        "end_s": intended_s + 0.2 if last is None else last,
        "gaps_s": () if first is None else (0.05, 0.05),
        "input_tokens": 5,
        "output_tokens": 3,
        "code": "OK",
    }
    return Record(**{**made, **values})


def failed(intended_s: float = 0.0, code: str = "UNAVAILABLE", **values: Any) -> Record:
    """One that failed at once: as fast as can be."""
    nothing = {"first_token_s": None, "last_token_s": None, "gaps_s": (), "output_tokens": 0}
    made = {"end_s": intended_s + 0.001, "code": code, "error": f"{code}: no", "streamed": True}
    return request(intended_s, **{**nothing, **made, **values})


def run_of(**values: Any) -> Run:
    """10 s after 1 s of warm-up, in a closed loop of 2 users."""
    made: dict[str, Any] = {
        "settings": {"users": 2, "seed": 7, "prompts": "built in"},
        "started": "2026-01-02T03:04:05Z",
        "is_open": False,
        "warm_up_s": 1.0,
        "duration_s": 10.0,
        "slo": Slo(),
        "levels": [(0.0, 2.0)],
        "generators": [Generator(0, 0.25, 0.001, 0.004, 0.0, 1000)],
    }
    return Run(**{**made, **values})


def busy(
    count: int, seed: int = 1, slow: float = 1.0, releases: Sequence[str] = ("",), length_s: float = 120.0
) -> list[Record]:
    """So many requests as a server may answer them: a ramp, a tail, some errors, and releases one after the other."""
    random = np.random.default_rng(seed)
    found = []
    for index, at in enumerate(np.sort(random.uniform(0, length_s, count))):
        load = at / length_s
        ttft = float(slow * random.lognormal(-2.5 + 1.2 * load, 0.45))
        tokens = int(random.integers(8, 60))
        gaps = tuple(slow * random.gamma(6, 0.02 / 6, tokens - 1))
        first = at + ttft
        last = first + sum(gaps)
        place = load * len(releases) + random.normal(0, 0.08)
        release = releases[int(np.clip(place, 0, len(releases) - 1))]
        values: dict[str, Any] = {
            "scenario": ("chat", "summary", "agent")[index % 3],
            "first_token_s": first,
            "last_token_s": last,
            "gaps_s": gaps,
            "output_tokens": tokens,
            "input_tokens": int(random.integers(20, 400)),
            "queue_s": ttft * 0.3,
            "release": release,
            "worker": index % 2,
            "user": index % 32,
        }
        if random.random() < 0.004 + 0.04 * (load > 0.8):
            code = "DEADLINE_EXCEEDED" if random.random() < 0.3 else "UNAVAILABLE"
            values = {"scenario": values["scenario"], "end_s": at + 0.05, "error": f"{code}: the queue is full"}
            found.append(failed(float(at), code, **values))
        else:
            found.append(request(float(at), **values))
    return found
