"""tensorrt_llm/llmapi/llm.py: LLM (BaseLLM, _TorchLLM) and what generate_async returns."""

import itertools
import json
import os
from pathlib import Path
from typing import Any

from .._checks import check
from .._model import REFUSED, Draw, Job, Steps, answer, log_probs
from ..executor import GenerationResult, Logprob, RequestError
from ..sampling_params import SamplingParams
from .llm_args import ARGUMENTS, SAMPLERS, KvCacheConfig


class RequestOutput(GenerationResult):
    """llm.py, RequestOutput."""


class LLM:
    """BaseLLM.__init__, with what TorchLlmArgs validates. There is no tokenizer, so it must not be asked for."""

    def __init__(
        self,
        model: str | Path,
        tokenizer: Any = None,
        tokenizer_mode: str = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(model, str | Path):
            raise ValueError(f"Invalid model: {model}")
        if tokenizer is not None or not skip_tokenizer_init or trust_remote_code:
            raise RuntimeError("ids in, ids out: no tokenizer, and no code of the checkpoint's")
        for key, value in kwargs.items():
            if key == "kv_cache_config":
                if not isinstance(value, KvCacheConfig):
                    raise TypeError(f"kv_cache_config: {value!r} is no KvCacheConfig")
            elif key in ARGUMENTS:
                check(key, value, ARGUMENTS[key])
            else:
                raise ValueError(f"LLM got invalid argument: {key}")
        self._sampler = kwargs.get("sampler_type", "auto")
        if self._sampler not in SAMPLERS:
            raise ValueError(f"sampler_type: {self._sampler!r} is none of {SAMPLERS}")
        if tensor_parallel_size != 1:
            raise RuntimeError(f"Only 1 GPUs are available, but {tensor_parallel_size} are required.")
        if os.environ.get("TLLM_WORKER_USE_SINGLE_PROCESS") != "1":
            raise RuntimeError("the worker would be a process of its own, which a killed parent leaves behind")
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
        self._vocab_size = config["vocab_size"]
        self._max_seq_len = kwargs.get("max_seq_len") or config["max_position_embeddings"]
        self._max_num_tokens = kwargs.get("max_num_tokens", 8192)
        self._chunked = kwargs.get("enable_chunked_prefill", False)
        self._results: dict[int, RequestOutput] = {}
        self._numbers = itertools.count(1)
        self._steps: Steps | None = Steps(kwargs.get("max_batch_size") or 2048, self._break)

    def generate_async(
        self,
        inputs: Any,
        sampling_params: SamplingParams | None = None,
        lora_request: None = None,
        prompt_adapter_request: None = None,
        streaming: bool = False,
    ) -> RequestOutput:
        """llm.py, BaseLLM.generate_async, and what the worker's _enqueue_request refuses (executor/base_worker.py)."""
        if self._steps is None:
            raise RuntimeError("LLM is shutting down")
        if not isinstance(sampling_params, SamplingParams):
            raise TypeError(f"The sampling_params must be type SamplingParams or None, but got {type(sampling_params)}")
        params = sampling_params
        if params.end_id is None:
            raise ValueError("tokenizer is required to reset end_id if it is None")
        check("inputs", inputs, "ids")
        check("streaming", streaming, "bool")
        self._check(inputs, params)
        number = next(self._numbers)
        result = RequestOutput(number, self._abort)
        self._results[number] = result
        draw = Draw(
            None if params.top_k == 1 else params.seed,
            params.repetition_penalty,
            params.presence_penalty,
            params.frequency_penalty,
        )
        end_id = -1 if params.ignore_eos else params.end_id
        ids = answer(inputs, params.max_tokens, self._vocab_size, draw, end_id, params.min_tokens or 0)
        told = 0

        def tell(new: list[int], reason: str | None, error: str | None) -> None:
            nonlocal told
            told += len(new)
            logs = log_probs(told)[told - len(new) :] if params.logprobs else []
            entries = [{token: Logprob(value, 1)} for token, value in zip(new, logs, strict=False)]
            metrics = job.metrics if params.return_perf_metrics else None
            result.put(RequestError(error) if error is not None else (new, entries, reason, metrics))

        job = Job(inputs, ids, "END_ID" if ids[-1] == end_id else "LENGTH", tell)
        self._steps.add(number, job)
        return result

    def _check(self, ids: list[int], params: SamplingParams) -> None:
        if not self._chunked and len(ids) > self._max_num_tokens:
            raise RequestError(f"The sum of prompt length ({len(ids)}) should not exceed {self._max_num_tokens}")
        if ids[0] == REFUSED:
            raise RequestError("Prompt refused.\nThe model is in no mood")
        if any(not 0 <= token < self._vocab_size for token in ids):
            raise RequestError("Token ID out of range")
        if len(ids) + params.max_tokens > self._max_seq_len:
            raise RequestError(f"`default_max_tokens` ({self._max_seq_len - len(ids)}) would be used instead")
        if params.use_beam_search or params.best_of != 1:
            raise RequestError("max_beam_width is 1")
        penalties = params.repetition_penalty, params.presence_penalty, params.frequency_penalty
        if self._sampler != "TRTLLMSampler" and (any(value is not None for value in penalties) or params.seed):
            raise AssertionError("TorchSampler of 1.2 ignores penalties and the seed of a request")
        if params.detokenize:
            raise AssertionError("there is nothing to detokenize with")

    def _abort(self, number: int) -> None:
        if self._steps is not None:
            self._steps.cancel(number)

    def _break(self, error: Exception) -> None:
        for result in self._results.values():
            result.put(error)

    def shutdown(self) -> None:
        """llm.py, BaseLLM.shutdown."""
        if self._steps is not None:
            self._steps.stop()
            self._steps = None
