"""What can be wrong with a load test before, while and after it runs.

LoadError
├── SettingError     what was asked for makes no sense: an option, a file of prompts, a trace, thresholds
├── UnreachableError the server does not answer, or not as one that could be measured
└── ReadError        a run's files cannot be read
"""


class LoadError(Exception):
    """The message is for the person who started the run."""


class SettingError(LoadError):
    """Names the option or file, its value and what is allowed."""


class UnreachableError(LoadError):
    """Names the address and what it said."""


class ReadError(LoadError):
    """Names the file, and the line where there is one."""
