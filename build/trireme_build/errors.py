"""What goes wrong for a reason that the user can mend.

BuildError
    CheckpointError   a checkpoint folder that cannot be used
    RecipeError       a recipe that says what cannot be
    AccuracyError     a build that is farther from its source than its recipe allows
    PublishError      a version that cannot be published where it should go
    TargetError       a target that no engine can be built for
    MissingTool       something that a stage needs is not installed, or not on this machine
"""


class BuildError(ValueError):
    """Anything that keeps a build from coming to its end; the message names the thing, the value and the limit."""


class CheckpointError(BuildError):
    """A checkpoint folder that cannot be used; the message names the file, the key and the value."""


class RecipeError(BuildError):
    """A recipe that says what cannot be; the message names the file, the key and the value."""


class AccuracyError(BuildError):
    """A build that is farther from its source than its recipe allows; the message names each figure and its limit."""


class PublishError(BuildError):
    """A version that cannot be published where it should go."""


class MissingTool(BuildError):
    """Something that a stage needs is not installed, or not on this machine; the message says what to do."""


class TargetError(BuildError):
    """A target that no engine can be built for; the message names the key, the value and the limit."""
