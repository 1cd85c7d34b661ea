"""Mixed traffic: mostly chat, some long prompts, some shared prefixes, some that do not stream."""

from trireme_load.scenarios.long_prompt import LongPrompt as _LongPrompt
from trireme_load.scenarios.shared_prefix import SharedPrefix as _SharedPrefix
from trireme_load.scenarios.streaming_chat import StreamingChat as _StreamingChat
from trireme_load.scenarios.unary import Unary as _Unary


class StreamingChat(_StreamingChat):
    weight = 6


class LongPrompt(_LongPrompt):
    weight = 1


class SharedPrefix(_SharedPrefix):
    weight = 2


class Unary(_Unary):
    weight = 1
