"""A model's config.pbtxt, read outside Triton."""

from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2


def read_parameters(path: Path) -> dict[str, str]:
    """The parameters of a config.pbtxt. Raises google.protobuf.text_format.ParseError, or OSError."""
    config = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    return {key: parameter.string_value for key, parameter in config.parameters.items()}
