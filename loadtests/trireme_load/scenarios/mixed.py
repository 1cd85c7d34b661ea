"""Mixed traffic: mostly chat, some long prompts, some shared prefixes, some that do not stream."""

from trireme_load.scenarios import long_prompt, shared_prefix, streaming_chat, unary


class StreamingChat(streaming_chat.StreamingChat):
    """Six of ten."""

    weight = 6


class LongPrompt(long_prompt.LongPrompt):
    """One of ten."""

    weight = 1


class SharedPrefix(shared_prefix.SharedPrefix):
    """Two of ten."""

    weight = 2


class Unary(unary.Unary):
    """One of ten."""

    weight = 1
