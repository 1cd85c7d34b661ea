"""Unary calls: the answer comes whole."""

from trireme_load.user import LlmUser


class Unary(LlmUser):
    """Asks without streaming, as a batch job does."""

    def turn(self) -> None:
        self.ask(stream=False)
