"""Mixed priorities: a few urgent requests among many that can wait."""

from trireme_load.user import LlmUser


class Urgent(LlmUser):
    """Goes first where requests wait."""

    weight = 1

    def turn(self) -> None:
        self.ask(priority=10)


class Patient(LlmUser):
    """Waits where requests wait."""

    weight = 4

    def turn(self) -> None:
        self.ask(priority=-10)
