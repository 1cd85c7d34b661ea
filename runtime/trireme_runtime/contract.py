"""The tensor contract: names, dtypes and dims of every model, and the wording of refusals.

Dims leave out the batch dimension; -1 is a variable length. Everything that a client may send to `ensemble` is listed,
whether an engine honours it or refuses it by name.
"""

import re
from dataclasses import dataclass
from enum import Enum


class Code(str, Enum):
    """What went wrong, as carried in front of every error message."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    UNAVAILABLE = "UNAVAILABLE"
    CANCELLED = "CANCELLED"
    NOT_FOUND = "NOT_FOUND"
    INTERNAL = "INTERNAL"


class Refusal(Exception):
    """A request that is not served, with its code; raised by the runtime, sent to the client by the models."""

    def __init__(self, code: Code, message: str, retry_after_ms: int | None = None) -> None:
        # All of them, so that it can be pickled: refusals cross from the engine's process.
        super().__init__(code, message, retry_after_ms)
        self.code = code
        self.message = message
        self.retry_after_ms = retry_after_ms

    def __str__(self) -> str:
        retry = "" if self.retry_after_ms is None else f" retry_after_ms={self.retry_after_ms}"
        return f"[{self.code.value}{retry}] {self.message}"


def invalid(message: str) -> Refusal:
    """A refusal of bad input; `message` names the tensor, the value and the limit."""
    return Refusal(Code.INVALID_ARGUMENT, message)


_REFUSAL = re.compile(r"\[([A-Z_]+)(?: retry_after_ms=(\d+))?\] (.*)", re.DOTALL)


def parse_refusal(text: str) -> Refusal | None:
    """The refusal inside an error text of the server, or None where the text carries no known code."""
    for match in _REFUSAL.finditer(text):
        code, retry_after_ms, message = match.groups()
        if code in Code.__members__:
            return Refusal(Code(code), message, int(retry_after_ms) if retry_after_ms else None)
    return None


#: How the ids of requests begin that `ensemble_unary` and the gateway pass on.
UNARY_ID_PREFIX = "trireme-unary-"

#: The request parameter that says below which span a request is traced (W3C Trace Context).
TRACEPARENT = "traceparent"


_BYTES = re.compile(r"bytes:((?:\\x[0-9a-f]{2})+)")


def token_text(token: bytes) -> str:
    """A token as text, which it need not be by itself: a part of a character is spelt `bytes:\\xe4\\xbd`."""
    try:
        return token.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def token_bytes(text: str) -> bytes:
    """The token that `token_text` spelt."""
    match = _BYTES.fullmatch(text)
    return bytes.fromhex(match[1].replace("\\x", "")) if match else text.encode("utf-8")


class FinishReason(str, Enum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True)
class Tensor:
    """One tensor of a model's signature; `dtype` is Triton's name without TYPE_ (STRING for BYTES)."""

    name: str
    dtype: str
    dims: tuple[int, ...]
    required: bool = False


def _tensors(dtype: str, dims: tuple[int, ...], names: str) -> tuple[Tensor, ...]:
    return tuple(Tensor(name, dtype, dims) for name in names.split())


#: Inputs that `ensemble` and `tensorrt_llm` share by name.
SAMPLING_INPUTS = (
    *_tensors("STRING", (1,), "guided_decoding_guide_type guided_decoding_guide"),
    *_tensors("INT32", (1,), "num_return_sequences end_id pad_id min_tokens beam_width prompt_vocab_size"),
    *_tensors("FP32", (1,), "temperature repetition_penalty presence_penalty frequency_penalty"),
    *_tensors("UINT64", (1,), "seed prompt_table_extra_id lora_task_id"),
    *_tensors("BOOL", (1,), "exclude_input_in_output return_log_probs return_context_logits return_generation_logits"),
    *_tensors("BOOL", (1,), "return_perf_metrics return_num_input_tokens return_num_output_tokens ignore_eos"),
    *_tensors("FP16", (-1, -1), "prompt_embedding_table lora_weights"),
    *_tensors("INT32", (-1, 3), "lora_config"),
    *_tensors("INT32", (1,), "priority deadline_ms"),
)

ENSEMBLE_INPUTS = (
    *_tensors("STRING", (1,), "text_input decoder_text_input messages chat_template_kwargs"),
    *_tensors("STRING", (-1,), "bad_words stop_words embedding_bias_words"),
    *_tensors("FP32", (-1,), "embedding_bias_weights"),
    *_tensors("INT32", (1,), "max_tokens top_k"),
    *_tensors("FP32", (1,), "top_p length_penalty"),
    *_tensors("BOOL", (1,), "stream"),
    *SAMPLING_INPUTS,
)

#: What the engine says besides ids and texts; each comes where it is asked for, if the engine has it.
_REPORTS = (
    *_tensors("FP32", (-1,), "cum_log_probs"),
    *_tensors("FP32", (-1, -1), "output_log_probs context_logits"),
    *_tensors("STRING", (-1, -1), "output_tokens"),
    *_tensors("FP32", (-1, -1, -1), "generation_logits"),
    *_tensors("FP32", (1,), "acceptance_rate"),
    *_tensors("INT32", (1,), "batch_index sequence_index num_input_tokens num_output_tokens"),
    *_tensors("INT32", (1,), "kv_cache_alloc_new_blocks kv_cache_reused_blocks kv_cache_alloc_total_blocks"),
    *_tensors("INT32", (1,), "num_reused_tokens total_accepted_draft_tokens total_draft_tokens"),
    *_tensors("INT64", (1,), "arrival_time_ns first_scheduled_time_ns first_token_time_ns last_token_time_ns"),
)

ENSEMBLE_OUTPUTS = (
    *_tensors("STRING", (-1,), "text_output finish_reason stop_reason"),
    *_tensors("INT32", (-1,), "sequence_length"),
    *_REPORTS,
)

#: The names of NVIDIA's LLM API model, and what they are called in `tensorrt_llm`; text_input goes to `preprocessing`.
LLMAPI_ENGINE_NAMES = {
    "streaming": "streaming",
    "stop": "stop",
    "sampling_param_best_of": "best_of",
    "sampling_param_temperature": "temperature",
    "sampling_param_top_k": "runtime_top_k",
    "sampling_param_top_p": "runtime_top_p",
    "sampling_param_frequency_penalty": "frequency_penalty",
    "sampling_param_presence_penalty": "presence_penalty",
    "sampling_param_max_tokens": "request_output_len",
    "sampling_param_stop": "stop_strings",
    "sampling_param_seed": "seed",
    "sampling_param_exclude_input_from_output": "exclude_input_in_output",
    "sampling_param_return_perf_metrics": "return_perf_metrics",
    "return_finish_reason": "return_finish_reason",
    "return_stop_reason": "return_stop_reason",
    "return_cumulative_logprob": "return_log_probs",
    "lora_id": "lora_id",
    "lora_name": "lora_name",
    "lora_path": "lora_path",
}

LLMAPI_OUTPUTS = (
    *_tensors("STRING", (-1,), "text_output finish_reason stop_reason"),
    *_tensors("FP32", (-1,), "cumulative_logprob"),
    *_tensors("INT32", (-1,), "kv_cache_reused_block kv_cache_alloc_new_blocks kv_cache_alloc_total_blocks"),
    *_tensors("INT64", (1,), "arrival_time_ns first_scheduled_time_ns first_token_time_ns last_token_time_ns"),
    *_tensors("FP32", (1,), "acceptance_rate"),
    *_tensors("INT32", (1,), "total_accepted_draft_tokens total_draft_tokens"),
)

PREPROCESSING_INPUTS = (
    *_tensors("STRING", (1,), "QUERY MESSAGES CHAT_TEMPLATE_KWARGS DECODER_QUERY"),
    *_tensors("INT32", (1,), "REQUEST_OUTPUT_LEN END_ID PAD_ID PRIORITY"),
    *_tensors("STRING", (-1,), "BAD_WORDS_DICT STOP_WORDS_DICT EMBEDDING_BIAS_WORDS"),
    *_tensors("FP32", (-1,), "EMBEDDING_BIAS_WEIGHTS"),
)

PREPROCESSING_OUTPUTS = (
    *_tensors("INT32", (-1,), "INPUT_ID"),
    *_tensors("INT32", (1,), "REQUEST_INPUT_LEN REQUEST_OUTPUT_LEN OUT_END_ID OUT_PAD_ID"),
    *_tensors("INT32", (2, -1), "BAD_WORDS_IDS STOP_WORDS_IDS"),
    *_tensors("FP32", (-1,), "EMBEDDING_BIAS"),
)

ENGINE_INPUTS = (
    Tensor("input_ids", "INT32", (-1,)),
    Tensor("input_lengths", "INT32", (1,)),
    Tensor("request_output_len", "INT32", (1,)),
    *_tensors("INT32", (1,), "runtime_top_k best_of"),
    *_tensors("FP32", (1,), "runtime_top_p len_penalty"),
    *_tensors("BOOL", (1,), "streaming stop return_finish_reason return_stop_reason"),
    *_tensors("STRING", (-1,), "stop_strings bad_strings embedding_bias_words"),
    *_tensors("FP32", (-1,), "embedding_bias_weights embedding_bias"),
    *_tensors("STRING", (1,), "decoder_text_input lora_name lora_path"),
    *_tensors("INT32", (2, -1), "stop_words_list bad_words_list"),
    *_tensors("UINT64", (1,), "stream_key lora_id"),
    *SAMPLING_INPUTS,
)

ENGINE_OUTPUTS = (
    *_tensors("INT32", (-1, -1), "output_ids"),
    *_tensors("INT32", (-1,), "sequence_length window_ids chunk"),
    *_tensors("UINT64", (1,), "stream_key"),
    *_tensors("STRING", (-1,), "finish_reason stop_reason"),
    *_REPORTS,
)

POSTPROCESSING_INPUTS = (
    *_tensors("INT32", (-1, -1), "TOKENS_BATCH"),
    *_tensors("INT32", (-1,), "SEQUENCE_LENGTH WINDOW_IDS CHUNK"),
    *_tensors("UINT64", (1,), "STREAM_KEY"),
    *_tensors("STRING", (-1,), "FINISH_REASON STOP_REASON"),
)

#: The others say what is in a CHUNK: what `tensorrt_llm` gives to those who call it by itself.
POSTPROCESSING_OUTPUTS = (
    *_tensors("STRING", (-1,), "OUTPUT"),
    *_tensors("INT32", (-1, -1), "CHUNK_OUTPUT_IDS"),
    *_tensors("INT32", (-1,), "CHUNK_SEQUENCE_LENGTH CHUNK_WINDOW_IDS"),
    *_tensors("UINT64", (1,), "CHUNK_STREAM_KEY"),
    *_tensors("STRING", (-1,), "CHUNK_FINISH_REASON CHUNK_STOP_REASON"),
    *_tensors("INT32", (1,), "CHUNK_NUM_INPUT_TOKENS CHUNK_NUM_OUTPUT_TOKENS"),
)


def _llmapi_inputs() -> tuple[Tensor, ...]:
    engine = {tensor.name: tensor for tensor in ENGINE_INPUTS}
    return (
        Tensor("text_input", "STRING", (-1,), required=True),
        *(Tensor(name, engine[inner].dtype, engine[inner].dims) for name, inner in LLMAPI_ENGINE_NAMES.items()),
    )


LLMAPI_INPUTS = _llmapi_inputs()

#: Model name -> (inputs, outputs).
SIGNATURES: dict[str, tuple[tuple[Tensor, ...], tuple[Tensor, ...]]] = {
    "ensemble": (ENSEMBLE_INPUTS, ENSEMBLE_OUTPUTS),
    "ensemble_unary": (ENSEMBLE_INPUTS, ENSEMBLE_OUTPUTS),
    "llmapi": (LLMAPI_INPUTS, LLMAPI_OUTPUTS),
    "preprocessing": (PREPROCESSING_INPUTS, PREPROCESSING_OUTPUTS),
    "tensorrt_llm": (ENGINE_INPUTS, ENGINE_OUTPUTS),
    "postprocessing": (POSTPROCESSING_INPUTS, POSTPROCESSING_OUTPUTS),
}
