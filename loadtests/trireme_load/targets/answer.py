"""What came of a request, as it came."""

import time
from dataclasses import dataclass, field

from trireme_client import Metrics

#: The clock of all times: monotonic, in s.
clock = time.monotonic


@dataclass
class Answer:
    """An answer that grows. sent: when the request went out; text_at: when each message with text came.

    messages: that came, with text or without. leave_after: after so many messages with text the client hangs up.
    """

    leave_after: int | None = None
    sent: float = 0.0
    text_at: list[float] = field(default_factory=list)
    messages: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    finish_reason: str = ""
    metrics: Metrics | None = None
    release: str = ""
    left: bool = False

    def came(self, at: float) -> bool:
        """A message with text came; True if the client hangs up now."""
        self.text_at.append(at)
        self.left = self.leave_after is not None and len(self.text_at) >= self.leave_after
        return self.left

    @property
    def gaps_s(self) -> tuple[float, ...]:
        """Between two successive messages with text."""
        return tuple(later - earlier for earlier, later in zip(self.text_at, self.text_at[1:], strict=False))

    @property
    def queue_s(self) -> float | None:
        """How long it waited in the server, from its arrival at the engine until it was first scheduled."""
        if self.metrics is None or not self.metrics.first_scheduled_time_ns:
            return None
        return max(0, self.metrics.first_scheduled_time_ns - self.metrics.arrival_time_ns) / 1e9
