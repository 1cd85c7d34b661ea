"""What a server serves of an LLM, as its own description of its models says."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trireme_runtime.model_names import SEPARATOR, model_and_release

#: What is live where no release is.
UNRELEASED = "unreleased"

#: What an engine takes where its configuration does not say.
_DEFAULT_SEQUENCES, _DEFAULT_TOKENS = 32, 32_768


@dataclass(frozen=True)
class Release:
    """What answers. name: for people. identity: the same only for what answers the same. version: of its engine's
    model; "" where it is not known."""

    name: str
    identity: str
    version: str = field(default="", compare=False)


@dataclass(frozen=True)
class Served:
    """One release on one server: the names of the ensemble to call, and of its engine's model."""

    release: Release
    ensemble: str
    engine: str


@dataclass(frozen=True)
class Serving:
    """What a server serves of one LLM.

    live: what is behind the public name. loaded: what can be asked for, by release name, the live one among them.
    max_sequences: that the engine takes at once; max_tokens: prompts and max_tokens of them together.
    """

    live: Served
    loaded: Mapping[str, Served] = field(default_factory=dict)
    max_sequences: int = _DEFAULT_SEQUENCES
    max_tokens: int = _DEFAULT_TOKENS

    def of(self, release: str) -> Served | None:
        """A release by its name, if it is loaded here."""
        return self.live if self.live.release.name == release else self.loaded.get(release)


def engine_step(config: Any) -> str:
    """The model that generates, of an ensemble's ModelConfig; "" if it has no such step."""
    return next((step.model_name for step in config.ensemble_scheduling.step if "input_ids" in step.input_map), "")


def step_models(config: Any) -> tuple[str, ...]:
    """The models of an ensemble's steps."""
    return tuple(step.model_name for step in config.ensemble_scheduling.step)


def served_of(
    llm: str, steps: tuple[str, ...], engine: str, versions: tuple[str, ...], engine_config: Any, version: str
) -> Served:
    """What is behind the public name `llm`.

    steps: the models of its ensemble. versions: theirs, where no release is live; then the release's identity holds
    them, and the engine's settings. version: of the engine's model.
    """
    releases = {model_and_release(step)[1] for step in steps}
    release = releases.pop() if len(releases) == 1 else ""
    if release:
        # By the name that is the release's alone: what is live may change before a request arrives.
        return Served(Release(release, release, version), f"{llm}{SEPARATOR}{release}", engine)
    settings = sorted((key, value.string_value) for key, value in engine_config.parameters.items())
    digest = hashlib.sha256(repr((steps, versions, settings)).encode()).hexdigest()[:12]
    return Served(Release(UNRELEASED, f"{UNRELEASED}-{digest}", version), llm, engine)


def limits_of(engine_config: Any) -> tuple[int, int]:
    """max_sequences and max_tokens, see `Serving`."""

    def number(key: str, default: int) -> int:
        text = engine_config.parameters[key].string_value if key in engine_config.parameters else ""
        return int(text) if text.isdecimal() else default

    tokens = number("max_tokens_in_paged_kv_cache", _DEFAULT_TOKENS) * number("kv_cache_overcommit", 1)
    return number("max_num_sequences", _DEFAULT_SEQUENCES), tokens
