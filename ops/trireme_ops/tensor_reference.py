"""Writes docs/tensors.md, the reference of all tensors, from the contract and the engine adapters.

python -m trireme_ops.tensor_reference
"""

from pathlib import Path

from trireme_runtime.contract import LLMAPI_ENGINE_NAMES, SIGNATURES, Tensor
from trireme_runtime.descriptions import INPUTS, OUTPUTS
from trireme_runtime.engines.openvino import HONOURS_WITH_VOCABULARY, OpenVinoEngine
from trireme_runtime.engines.tensorrt_llm_executor import HONOURS_WITH_BEAMS, TensorRtLlmEngine
from trireme_runtime.engines.tensorrt_llm_llmapi import TensorRtLlm
from trireme_runtime.requests import CLIENT_NAMES, Treatment, client_name, treatment

TARGET = Path(__file__).resolve().parents[2] / "docs" / "tensors.md"

#: Engine adapter -> the inputs that it can honour.
ADAPTERS = {
    "openvino": OpenVinoEngine.honours | HONOURS_WITH_VOCABULARY,
    "tensorrt_llm": TensorRtLlm.honours,
    "tensorrt_llm_engine": TensorRtLlmEngine.honours | HONOURS_WITH_BEAMS,
}

#: What `preprocessing` takes before an engine sees anything.
_PREPROCESSED = frozenset({"text_input", "messages", "chat_template_kwargs"})

_ENGINE_NAMES = {client: engine for engine, client in CLIENT_NAMES.items()}

_INTRODUCTION = """\
# Tensors

Made by `make docs` from the contract and the engine adapters; tests compare it with them and with every
`config.pbtxt`.

Every tensor has a batch dimension of 1 in front: `max_tokens` is sent as `[1, 1]`. Everything but a prompt and
`max_tokens` is optional. An input that the engine behind `tensorrt_llm` cannot honour is refused with
INVALID_ARGUMENT, naming the tensor and the engine; where its value asks for nothing (`embedding_bias_weights` of
zeros, an empty `decoder_text_input`), it is taken, so that clients that always send it work. Nothing is ignored.
"""


def engine_name(tensor: str) -> str:
    """The name in `tensorrt_llm` of an input of `ensemble`."""
    return _ENGINE_NAMES.get(tensor, tensor)


def treatment_of(tensor: str, adapter: str) -> Treatment:
    """What becomes of an input of `ensemble` with an engine adapter."""
    return Treatment.HONOURED if tensor in _PREPROCESSED else treatment(engine_name(tensor), ADAPTERS[adapter])


def _shape(tensor: Tensor) -> str:
    return f"[{', '.join(map(str, tensor.dims))}]"


def _inputs() -> list[str]:
    lines = [f"| input | dtype | | {' | '.join(ADAPTERS)} |", "|---|---|---|" + "---|" * len(ADAPTERS)]
    for tensor in sorted(SIGNATURES["ensemble"][0], key=lambda tensor: list(INPUTS).index(tensor.name)):
        treatments = " | ".join(treatment_of(tensor.name, adapter).value for adapter in ADAPTERS)
        lines.append(f"| `{tensor.name}` | {tensor.dtype} {_shape(tensor)} | {INPUTS[tensor.name]} | {treatments} |")
    return lines


def _outputs() -> list[str]:
    lines = ["| output | dtype | |", "|---|---|---|"]
    for tensor in sorted(SIGNATURES["ensemble"][1], key=lambda tensor: list(OUTPUTS).index(tensor.name)):
        lines.append(f"| `{tensor.name}` | {tensor.dtype} {_shape(tensor)} | {OUTPUTS[tensor.name]} |")
    return lines


def _aliases() -> list[str]:
    lines = ["| `llmapi` | `ensemble` |", "|---|---|", "| `text_input` | `text_input` |"]
    for name, inner in LLMAPI_ENGINE_NAMES.items():
        ours = client_name(inner)
        known = ours in INPUTS
        what = f"`{ours}`" if known else treatment(inner, ADAPTERS["openvino"]).value
        lines.append(f"| `{name}` | {what} |")
    return lines


def _steps() -> list[str]:
    lines = ["| model | inputs | outputs |", "|---|---|---|"]
    for model in ("preprocessing", "tensorrt_llm", "postprocessing"):
        sides = (", ".join(f"`{t.name}` {t.dtype} {_shape(t)}" for t in side) for side in SIGNATURES[model])
        lines.append(f"| `{model}` | {' | '.join(sides)} |")
    return lines


def render() -> str:
    """The text of docs/tensors.md."""
    parts = [
        _INTRODUCTION,
        "## `ensemble` and `ensemble_unary`, inputs\n\nThe last columns say what each engine adapter does with it.\n",
        *_inputs(),
        "\n## `ensemble` and `ensemble_unary`, outputs\n",
        *_outputs(),
        "\n## `llmapi`\n\nThe names of NVIDIA's LLM API model, over the same models. Without "
        "`sampling_param_max_tokens` the context is the limit.\n",
        *_aliases(),
        "\nIts outputs are `text_output`, `finish_reason`, `stop_reason`, `cumulative_logprob`, and with "
        "`sampling_param_return_perf_metrics` the times and cache counts.\n",
        "## Between the steps\n",
        *_steps(),
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
