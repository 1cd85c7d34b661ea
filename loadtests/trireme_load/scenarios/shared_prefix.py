"""A long prefix that all prompts share, as a system prompt or a document is: what a KV prefix cache is for."""

from trireme_load.prompts import Prompt
from trireme_load.user import LlmUser

#: How many prefixes there are, and how long they and the answers are.
PREFIXES, PREFIX_TOKENS, ANSWER_TOKENS = 4, 600, 32


class SharedPrefix(LlmUser):
    """Asks its own question after one of the prefixes."""

    def turn(self) -> None:
        prefix = self.session.prompts(-self.chance.randint(1, PREFIXES)).of_length(PREFIX_TOKENS, ANSWER_TOKENS)
        question = self.chance.randrange(10**6)
        self.ask(Prompt(f"{prefix.text} Question {question}?", max_tokens=ANSWER_TOKENS, ignore_eos=True))
