"""The protocols that a server can be asked in. Each target asks, and times what comes; it knows nothing of Locust."""

from .answer import Answer
from .base import Target
from .choose import NAMES, connect

__all__ = ["NAMES", "Answer", "Target", "connect"]
