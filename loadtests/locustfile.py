"""Plain Locust with LLM figures: `locust -f loadtests/locustfile.py`. The scenarios lie in trireme_load/scenarios."""

from trireme_load.scenarios.mixed import LongPrompt, SharedPrefix, StreamingChat, Unary

__all__ = ["LongPrompt", "SharedPrefix", "StreamingChat", "Unary"]
