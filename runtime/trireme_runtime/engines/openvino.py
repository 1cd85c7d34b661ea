"""OpenVINO GenAI's continuous batching on the CPU, in a child process (see `openvino_child`)."""

import queue
import threading
from pathlib import Path

from trireme_runtime.contract import FinishReason, Refusal

from .base import EngineDied, EngineEvent, EngineRequest, EngineSettings, check_request
from .child_engine import ChildEngine
from .openvino_checker import GrammarChecker

#: In the engine folder: a model with the same vocabulary and next to no weights.
GRAMMAR_CHECKER = "grammar_checker"

#: What the engine can honour besides, if its folder says what text each id stands for.
HONOURS_WITH_VOCABULARY = frozenset(
    {"guided_decoding_guide_type", "guided_decoding_guide", "bad_strings", "bad_words_list"}
)


class OpenVinoEngine(ChildEngine):
    """An `Engine` over one model folder: openvino_model.xml, openvino_model.bin and config.json.

    Raises RuntimeError if the model cannot be loaded, EngineDied if the child ends before it is ready.
    """

    name = "openvino"
    honours = frozenset(
        {
            "end_id",
            "ignore_eos",
            "temperature",
            "runtime_top_k",
            "runtime_top_p",
            "seed",
            "min_tokens",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
            "beam_width",
            "len_penalty",
            "return_log_probs",
            "return_perf_metrics",
        }
    )

    def __init__(self, folder: Path, settings: EngineSettings) -> None:
        if (folder / GRAMMAR_CHECKER / "openvino_detokenizer.xml").is_file():
            self.honours = self.honours | HONOURS_WITH_VOCABULARY
        #: What the child has not got yet, and whether it was cancelled.
        self._unchecked: dict[int, bool] = {}
        self._to_check: queue.SimpleQueue[EngineRequest | None] = queue.SimpleQueue()
        self.checker = GrammarChecker(folder / GRAMMAR_CHECKER)
        super().__init__("trireme_runtime.engines.openvino_child", folder, settings)
        threading.Thread(target=self._check, name="grammar-checker", daemon=True).start()

    @property
    def _computing(self) -> bool:
        return len(self._active) > len(self._unchecked)

    def submit(self, request: EngineRequest) -> None:
        check_request(request, self.limits)
        with self._send_lock:
            self._claim(request.key)
            constrained = request.guide is not None or bool(request.bad_strings)
            if constrained:
                self._unchecked[request.key] = False
        if constrained:
            self._to_check.put(request)
        else:
            self._send(("submit", request))

    def cancel(self, key: int) -> None:
        with self._send_lock:
            if key in self._unchecked:
                # It is not with the engine yet; the checker's thread ends it.
                self._unchecked[key] = True
                return
        super().cancel(key)

    def _check(self) -> None:
        """Pass requests on whose answers must match something, once that is known to be usable."""
        while (request := self._to_check.get()) is not None:
            constraint, event = None, None
            try:
                constraint = self.checker.constraint((request.guide, request.bad_strings, request.end_id is None))
            except Refusal as refusal:
                event = EngineEvent(request.key, error=refusal)
            with self._send_lock:
                if self._unchecked.pop(request.key):
                    event = EngineEvent(request.key, finish_reason=FinishReason.CANCELLED)
                try:
                    self._send(("tell", event) if event is not None else ("submit", request, constraint))
                except EngineDied:
                    # Whoever reads the events hears of it.
                    continue
        self.checker.close()

    def close(self) -> None:
        self._to_check.put(None)
        super().close()
