"""The errors that `trireme` prints without a stack trace."""


class OperatorError(Exception):
    """Something that the operator can mend; the message says what is wrong and what to type."""


class Refused(OperatorError):
    """What a server cannot do now, or not for this operator. status: HTTP."""

    def __init__(self, message: str, status: int = 409) -> None:
        super().__init__(message)
        self.status = status
