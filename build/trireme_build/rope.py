"""Rotary position embeddings: what a checkpoint's configuration says of them, and the frequencies that follow."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import CheckpointError

#: What each kind of scaling needs, and what it may have besides.
_NEEDED = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor",),
}
_OPTIONAL = {
    "yarn": (
        "original_max_position_embeddings",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    )
}


@dataclass(frozen=True)
class Rope:
    """theta: the base of the wavelengths. kind: default, linear, llama3 or yarn; parameters: those of the scaling.

    max_positions: max_position_embeddings of the configuration, what YaRN starts from where it says nothing else.
    """

    theta: float
    max_positions: int
    kind: str = "default"
    parameters: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], max_positions: int) -> "Rope":
        """Read `rope_theta` and `rope_scaling`, or `rope_parameters`, which holds both, as newer configurations do.

        Raises CheckpointError for values that contradict each other, and for a kind of scaling that is not supported.
        """
        scaling = dict(_table(config, "rope_parameters") or _table(config, "rope_scaling"))
        theta = scaling.pop("rope_theta", config.get("rope_theta", 10_000.0))
        if config.get("rope_theta", theta) != theta:
            raise CheckpointError(
                f"config.json: rope_theta is {config['rope_theta']!r} and, in rope_parameters, {theta!r}"
            )
        if type(theta) not in (int, float) or not 0 < theta < math.inf:
            raise CheckpointError(f"config.json: rope_theta is {theta!r}; a number above 0 is needed")
        kinds = [scaling.pop(key) for key in ("rope_type", "type") if key in scaling]
        kind = kinds[0] if kinds else "default"
        if kind not in _NEEDED or kinds[1:] not in ([], [kind]):
            named = " and ".join(map(repr, kinds))
            raise CheckpointError(f"config.json: the rope type is {named}; supported is one of {', '.join(_NEEDED)}")
        known = (*_NEEDED[kind], *_OPTIONAL.get(kind, ()))
        for key in _NEEDED[kind]:
            if key not in scaling:
                raise CheckpointError(f"config.json: rope_scaling of the type {kind} has no {key}")
        values = {}
        for key, value in scaling.items():
            if value is None:
                continue
            if key not in known:
                raise CheckpointError(f"config.json: rope_scaling of the type {kind} has an unknown {key}")
            if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise CheckpointError(f"config.json: {key} of rope_scaling is {value!r}; a number is needed")
            values[key] = value
        if kind != "default" and values["factor"] < 1:
            raise CheckpointError(f"config.json: factor of rope_scaling is {values['factor']:g}; at least 1 is needed")
        return cls(float(theta), max_positions, kind, values)

    def inverse_frequencies(self, dim: int) -> list[float]:
        """Angle per position of each pair of `dim` channels, dim / 2 values; Su et al. 2021, scaled.

        linear: Chen et al. 2023, positions interpolated by the factor. llama3: the Llama 3.1 release, long wavelengths
        interpolated and a smooth passage to the short ones. yarn: Peng et al. 2023, NTK by parts.
        """
        # Python floats, not numpy's float32 power: the same bits on every CPU.
        plain = [self.theta ** (-index / dim) for index in range(0, dim, 2)]
        if self.kind == "linear":
            return [value / self.parameters["factor"] for value in plain]
        if self.kind == "llama3":
            return [self._llama3(value) for value in plain]
        if self.kind == "yarn":
            return self._yarn(plain, dim)
        return plain

    def write_to(self, config: Any) -> None:
        """Set them in a configuration of transformers, which passes over a newer one's `rope_parameters` in silence."""
        config.rope_theta = self.theta
        config.rope_scaling = None if self.kind == "default" else {"rope_type": self.kind, **self.parameters}

    @property
    def attention_factor(self) -> float:
        """What cos and sin are multiplied by; other than 1 with YaRN only, where it stands for its temperature."""
        if self.kind != "yarn":
            return 1.0
        given = self.parameters.get("attention_factor")
        if given is not None:
            return given
        factor = self.parameters["factor"]

        def mscale(share: float) -> float:
            return 0.1 * share * math.log(factor) + 1.0 if factor > 1 else 1.0

        above, below = self.parameters.get("mscale"), self.parameters.get("mscale_all_dim")
        return mscale(above) / mscale(below) if above and below else mscale(1.0)

    def _llama3(self, frequency: float) -> float:
        factor, original = self.parameters["factor"], self.parameters["original_max_position_embeddings"]
        low, high = self.parameters["low_freq_factor"], self.parameters["high_freq_factor"]
        # How many turns the pair makes in the original context.
        turns = original * frequency / (2 * math.pi)
        if turns < low:
            return frequency / factor
        if turns > high:
            return frequency
        smooth = (turns - low) / (high - low)
        return (1 - smooth) * frequency / factor + smooth * frequency

    def _yarn(self, plain: list[float], dim: int) -> list[float]:
        original = self.parameters.get("original_max_position_embeddings") or float(self.max_positions)

        def channel(turns: float) -> float:
            """The one that makes so many turns in the original context."""
            return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(self.theta))

        low = channel(self.parameters.get("beta_fast") or 32.0)
        high = channel(self.parameters.get("beta_slow") or 1.0)
        if self.parameters.get("truncate", 1.0):
            low, high = float(math.floor(low)), float(math.ceil(high))
        low, high = max(low, 0.0), min(high, dim - 1.0)
        width = (high - low) or 0.001
        shares = [min(1.0, max(0.0, (index - low) / width)) for index in range(dim // 2)]
        factor = self.parameters["factor"]
        return [value / factor * share + value * (1 - share) for value, share in zip(plain, shares, strict=True)]


def _table(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise CheckpointError(f"config.json: {key} is {value!r}; an object is needed")
    return value
