"""Streaming chat: a question, and the answer as it comes."""

from trireme_load.user import LlmUser


class StreamingChat(LlmUser):
    """Asks one prompt after the other."""

    def turn(self) -> None:
        self.ask()
