"""An engine without a model: known ids, at a set rate or as fast as they can be handed on.

It exists to measure and to test everything around an engine. Its folder holds a config.json with vocab_size,
max_position_embeddings, and optionally steps_per_s (0 is without limit), seed, and silent_ids, which never come up.
first_token_ms and token_ms set the times of each request by itself: to its first token, and between two. For tests of
what happens then, hang_after_steps, and hang: "sleep" or "spin".
"""

from pathlib import Path

from .base import EngineSettings
from .child_engine import ChildEngine


class NullEngine(ChildEngine):
    """An `Engine` that emits `null_child.known_ids`, one a step for each request that runs."""

    name = "null"
    honours = frozenset({"end_id", "ignore_eos", "temperature", "seed", "return_perf_metrics"})

    def __init__(self, folder: Path, settings: EngineSettings) -> None:
        super().__init__("trireme_runtime.engines.null_child", folder, settings)
