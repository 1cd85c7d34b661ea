"""Long prompts, short answers: what retrieval and summaries look like to an engine."""

from trireme_load.user import LlmUser

PROMPT_TOKENS = (600, 1200)
ANSWER_TOKENS = 32


class LongPrompt(LlmUser):
    """Each prompt is new, so that prefill is never saved."""

    def turn(self) -> None:
        self.ask(self.prompts.of_length(self.chance.randint(*PROMPT_TOKENS), ANSWER_TOKENS))
