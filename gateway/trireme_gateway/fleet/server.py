"""One of the servers, as the gateway knows it: whether it can be asked, what it serves, and what it has been given."""

from dataclasses import dataclass

from ..settings import HealthSettings, ServerAddress
from .ask import Cost
from .link import Call, Link
from .serving import Served, Serving


@dataclass
class Seats:
    """What a server has been given of one LLM, and how much of it there may be; tokens are estimates.

    full_until: it said itself that it is full, and is asked again then, or when one of its requests has ended. In s of
    the loop's clock.
    """

    max_sequences: int
    max_tokens: int
    sequences: int = 0
    tokens: int = 0
    full_until: float = 0.0

    def has_room(self, cost: Cost, now: float) -> bool:
        """Whether there is room. What is too large for any server goes to one that is idle, which says so."""
        if now < self.full_until:
            return False
        if not self.sequences:
            return True
        return self.sequences + cost.sequences <= self.max_sequences and self.tokens + cost.tokens <= self.max_tokens

    def take(self, cost: Cost) -> None:
        """Count a request."""
        self.sequences += cost.sequences
        self.tokens += cost.tokens

    def give_back(self, cost: Cost, full_until: float = 0.0) -> None:
        """Count it no more."""
        self.sequences -= cost.sequences
        self.tokens -= cost.tokens
        self.full_until = full_until


class Server:
    """A server. ready: as it said last. Times are those of the loop's clock, in s."""

    def __init__(self, address: ServerAddress, settings: HealthSettings, spare_sequences: int) -> None:
        self.name = address.name
        self.health = address.health
        self.link = Link(address.grpc)
        self.ready = False
        self.serving: dict[str, Serving] = {}
        self.seats: dict[str, Seats] = {}
        self.under_way: set[Call] = set()
        #: Requests in a row that it did not answer; until when it is left out for that; for how long the next time.
        self.failures = 0
        self.ejected_until = 0.0
        self._settings = settings
        self._eject_s = settings.eject_s
        self._spare_sequences = spare_sequences

    def serves(self, llm: str, release: str) -> Served | None:
        """The release as it is to be asked for here; None if it cannot be."""
        serving = self.serving.get(llm)
        return serving.of(release) if self.ready and serving is not None else None

    def apply(self, settings: HealthSettings, spare_sequences: int) -> None:
        """Go on with other settings."""
        self._settings = settings
        self._eject_s = settings.eject_s
        self._spare_sequences = spare_sequences
        for llm, serving in self.serving.items():
            self.now_serves(llm, serving)

    def now_serves(self, llm: str, serving: Serving) -> None:
        """Note what it serves."""
        self.serving[llm] = serving
        most = serving.max_sequences + self._spare_sequences
        seats = self.seats.setdefault(llm, Seats(most, serving.max_tokens))
        seats.max_sequences, seats.max_tokens = most, serving.max_tokens

    def answered(self) -> None:
        """A request was answered, be it with a refusal."""
        self.failures = 0
        self._eject_s = self._settings.eject_s

    def failed(self, now: float) -> bool:
        """A request was not answered; whether it is left out for a while because of that."""
        self.failures += 1
        if self.failures < self._settings.failures or now < self.ejected_until:
            return False
        self.ejected_until = now + self._eject_s
        self._eject_s = min(2 * self._eject_s, self._settings.max_eject_s)
        return True

    def lost(self) -> None:
        """It does not answer any more: what is under way will not end."""
        for one in list(self.under_way):
            one.abandon()
