"""A model's config.pbtxt, read outside Triton."""

from collections.abc import Sequence
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2


def read_config(path: Path) -> model_config_pb2.ModelConfig:
    """A config.pbtxt. Raises google.protobuf.text_format.ParseError, or OSError."""
    return text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


def served_versions(config: model_config_pb2.ModelConfig, versions: Sequence[int]) -> list[int]:
    """Those of the versions, lowest first, that Triton loads: as version_policy says, or the newest."""
    policy = config.version_policy
    if policy.HasField("all"):
        return list(versions)
    if policy.HasField("specific"):
        return [version for version in versions if version in policy.specific.versions]
    return list(versions[-(policy.latest.num_versions or 1) :])


def read_parameters(path: Path) -> dict[str, str]:
    """The parameters of a config.pbtxt. Raises google.protobuf.text_format.ParseError, or OSError."""
    config = read_config(path)
    return {key: parameter.string_value for key, parameter in config.parameters.items()}
