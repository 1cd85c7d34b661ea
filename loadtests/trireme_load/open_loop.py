"""Who answers the arrivals of an open loop: users that are taken when they are needed, as many as it takes."""

import random
from collections import defaultdict
from typing import Any

from .prompts import Prompt
from .session import Session, weighted
from .user import LlmUser


class Crowd:
    """Users of the scenarios of a run. One that is idle is taken again; its connection stays."""

    def __init__(self, environment: Any, session: Session) -> None:
        self._environment = environment
        self._chance = random.Random(f"{session.settings.seed} {session.worker} crowd")
        self._idle: defaultdict[type[LlmUser], list[LlmUser]] = defaultdict(list)
        self._classes = [one for one in environment.user_classes if issubclass(one, LlmUser)]

    def connect(self, count: int) -> None:
        """Have so many users ready: the first arrivals need not wait for their connections. Raises LoadError."""
        for _ in range(count):
            kind = weighted(self._classes, self._chance)
            self._idle[kind].append(self._make(kind))

    def ask_one(self, intended_s: float, prompt: Prompt | None) -> None:
        """One turn of one user. Raises LoadError if it cannot connect."""
        kind = weighted(self._classes, self._chance)
        user = self._idle[kind].pop() if self._idle[kind] else self._make(kind)
        user.turn_for(intended_s, prompt)
        self._idle[kind].append(user)

    def _make(self, kind: type[LlmUser]) -> LlmUser:
        user = kind(self._environment)
        user.prepare()
        return user

    def close(self) -> None:
        """Close the connections of those that are idle."""
        for users in self._idle.values():
            for user in users:
                user.close()
