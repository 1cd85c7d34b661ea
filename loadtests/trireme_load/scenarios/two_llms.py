"""Two LLMs on one server, each with users of its own. `trireme add NAME` makes a second one."""

import os

from trireme_load.user import LlmUser

FIRST = os.environ.get("TRIREME_LOAD_FIRST", "ensemble")
SECOND = os.environ.get("TRIREME_LOAD_SECOND", "second")


class OfTheFirst(LlmUser):
    """Asks the first."""

    model = FIRST

    def turn(self) -> None:
        self.ask()


class OfTheSecond(LlmUser):
    """Asks the second."""

    model = SECOND

    def turn(self) -> None:
        self.ask()
