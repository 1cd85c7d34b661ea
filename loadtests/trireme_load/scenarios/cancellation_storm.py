"""Users who leave: half of the streams are hung up on after a few messages, the others have to go on undisturbed."""

from trireme_load.user import LlmUser

SHARE_THAT_LEAVES = 0.5
MESSAGES_UNTIL_THEN = (1, 8)


class Leaver(LlmUser):
    """Hangs up, or does not."""

    def turn(self) -> None:
        if self.chance.random() < SHARE_THAT_LEAVES:
            self.ask(leave_after=self.chance.randint(*MESSAGES_UNTIL_THEN), name="leaves")
        else:
            self.ask(name="stays")
