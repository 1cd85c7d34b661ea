"""The configurations that a release is served with, made from those of the checkout: messages in, messages out."""

from collections.abc import Iterable, Mapping, MutableMapping

from tritonclient.grpc import model_config_pb2

from ..errors import OperatorError
from .llm import Llm, scoped

#: In front of the name of a sampling parameter: the engine model's parameter that says what holds where a client sends
#: nothing.
DEFAULT_PREFIX = "default_"

#: Outputs of an engine model that its alias takes from the postprocessing model, which has them by these names: they
#: are in the packed chunk, and whoever asks for one of them passes the step that sees clients go.
UNPACKED_OUTPUTS = {
    name: f"CHUNK_{name.upper()}"
    for name in (
        "output_ids",
        "sequence_length",
        "window_ids",
        "stream_key",
        "finish_reason",
        "stop_reason",
        "num_input_tokens",
        "num_output_tokens",
    )
}

#: What the engine model gives to the postprocessing model, by the names there.
_CHUNK_INPUTS = {"chunk": "CHUNK", "stop_reason": "STOP_REASON"}


def scoped_config(
    config: model_config_pb2.ModelConfig,
    llm: Llm,
    release: str,
    settings: Mapping[str, str],
    instances: int | None,
    sampling: Mapping[str, str],
) -> model_config_pb2.ModelConfig:
    """A model of `llm` under its name within the release, for a folder that holds the one version of it.

    settings and sampling are those of the whole release; they concern the engine model alone. instances: how many of
    the model, or as many as `config` says. Raises OperatorError for a setting that the engine model does not have.
    """
    made = _copy(config)
    made.name = scoped(config.name, release)
    made.ClearField("version_policy")
    if "engine_model" in made.parameters:
        made.parameters["engine_model"].string_value = scoped(llm.engine, release)
    if config.name == llm.engine:
        for key, value in settings.items():
            if key not in made.parameters:
                raise OperatorError(f"{config.name} has no setting {key!r}")
            made.parameters[key].string_value = value
        for key, value in sampling.items():
            made.parameters[f"{DEFAULT_PREFIX}{key}"].string_value = value
    if instances is not None:
        if len(made.instance_group) > 1:
            raise OperatorError(f"{config.name} has several instance groups; a release sets the count of one")
        if not made.instance_group:
            made.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_CPU)
        made.instance_group[0].count = instances
    return made


def ensemble_config(
    config: model_config_pb2.ModelConfig, release: str | None, public: bool
) -> model_config_pb2.ModelConfig:
    """An ensemble over the models of a release; None: over those of the checkout. public: under its own name."""
    made = _copy(config)
    made.name = scoped(config.name, None if public else release)
    for step in made.ensemble_scheduling.step:
        step.model_name = scoped(step.model_name, release)
    return made


def alias_config(config: model_config_pb2.ModelConfig, llm: Llm, release: str) -> model_config_pb2.ModelConfig:
    """A step of `llm` under its own name, as an ensemble over the release's.

    It takes and gives what the model itself does, with these exceptions: in an ensemble, what is taken and what is
    given cannot have the same name, so preprocessing's does not give REQUEST_OUTPUT_LEN, and the engine model's does
    not take `stream_key`; and what is between the models alone, and not always there, is left out: `chunk`, and what
    postprocessing says of it. Errors have "in ensemble NAME" in front.

    The engine model's alias has the postprocessing model behind it: Triton does not carry the cancellation of an
    ensemble to the step that is running, and postprocessing sees it and stops the generation.
    """
    made = model_config_pb2.ModelConfig(name=config.name, platform="ensemble", max_batch_size=config.max_batch_size)
    is_engine = config.name == llm.engine
    # Keys come back from the release that a chunk is of; only postprocessing sends one, and to that release.
    made.input.extend(tensor for tensor in config.input if not is_engine or tensor.name != "stream_key")
    taken = {tensor.name for tensor in made.input}
    internal = {"chunk", *UNPACKED_OUTPUTS.values()}
    made.output.extend(tensor for tensor in config.output if tensor.name not in taken | internal)
    step = made.ensemble_scheduling.step.add(model_name=scoped(config.name, release), model_version=-1)
    _map(step.input_map, taken)
    unpacked = {tensor.name for tensor in made.output} & UNPACKED_OUTPUTS.keys() if is_engine else set()
    _map(step.output_map, {tensor.name for tensor in made.output} - unpacked)
    if is_engine:
        behind = made.ensemble_scheduling.step.add(model_name=scoped(llm.postprocessing, release), model_version=-1)
        for engine_name, name in _CHUNK_INPUTS.items():
            # An edge of its own: an output of the ensemble may have the same name.
            step.output_map[engine_name] = behind.input_map[name] = f"packed_{engine_name}"
        for engine_name in sorted(unpacked):
            behind.output_map[UNPACKED_OUTPUTS[engine_name]] = engine_name
    return made


def _copy(config: model_config_pb2.ModelConfig) -> model_config_pb2.ModelConfig:
    made = model_config_pb2.ModelConfig()
    made.CopyFrom(config)
    return made


def _map(target: MutableMapping[str, str], names: Iterable[str]) -> None:
    for name in sorted(names):
        target[name] = name
