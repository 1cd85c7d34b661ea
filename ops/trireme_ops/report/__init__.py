"""`trireme report`: versions of one LLM side by side on one HTML page."""

from .command import add_parser

__all__ = ["add_parser"]
