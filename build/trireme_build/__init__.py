"""From a checkpoint to a published version in the model repository."""

# Before OpenVINO, which it keeps quiet.
import trireme_runtime  # noqa: F401
