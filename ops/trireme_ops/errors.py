"""The one error that `trireme` prints without a stack trace."""


class OperatorError(Exception):
    """Something that the operator can mend; the message says what is wrong and what to type."""
