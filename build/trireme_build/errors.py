"""What goes wrong for a reason that the user can mend."""


class CheckpointError(ValueError):
    """A checkpoint folder that cannot be used; the message names the file, the key and the value."""
