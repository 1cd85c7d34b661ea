"""OpenVINO GenAI's continuous batching on the CPU, in a child process (see `openvino_child`)."""

import queue
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from trireme_runtime.contract import FinishReason, Refusal

from .base import EngineDied, EngineEvent, EngineLimits, EngineRequest, EngineSettings, check_request
from .child_process import start_child
from .openvino_checker import GrammarChecker

#: In the engine folder: a model with the same vocabulary and next to no weights.
GRAMMAR_CHECKER = "grammar_checker"

#: What the engine can honour besides, if its folder says what text each id stands for.
HONOURS_WITH_VOCABULARY = frozenset(
    {"guided_decoding_guide_type", "guided_decoding_guide", "bad_strings", "bad_words_list"}
)


class OpenVinoEngine:
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
        self._process, self._connection = start_child("trireme_runtime.engines.openvino_child")
        self._send_lock = threading.RLock()
        self._active: set[int] = set()
        self._unchecked: set[int] = set()
        self._to_check: queue.SimpleQueue[EngineRequest | None] = queue.SimpleQueue()
        self.checker = GrammarChecker(folder / GRAMMAR_CHECKER)
        self._closing = False
        self._send((folder, settings))
        answer = self._receive()
        if isinstance(answer, Exception):
            self.close()
            raise answer
        assert isinstance(answer, EngineLimits)
        self.limits = answer
        threading.Thread(target=self._check, name="grammar-checker", daemon=True).start()

    def _send(self, message: object) -> None:
        try:
            with self._send_lock:
                self._connection.send(message)
        except OSError as error:
            raise EngineDied(f"the engine process {self._process.pid} is gone") from error

    def _receive(self) -> object:
        try:
            received: object = self._connection.recv()
            return received
        except (EOFError, OSError) as error:
            if not self._closing:
                self._process.wait()
            raise EngineDied(f"the engine process ended with status {self._process.poll()}") from error

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def submit(self, request: EngineRequest) -> None:
        check_request(request, self.limits)
        with self._send_lock:
            if request.key in self._active:
                # The pipeline would wedge for good on a second active request of the same id.
                raise ValueError(f"engine key {request.key} is already active")
            self._active.add(request.key)
            constrained = request.guide is not None or bool(request.bad_strings)
            if constrained:
                self._unchecked.add(request.key)
        if constrained:
            self._to_check.put(request)
        else:
            self._send(("submit", request, None))

    def cancel(self, key: int) -> None:
        with self._send_lock:
            if key in self._unchecked:
                # It is not with the engine yet; the checker's thread ends it.
                self._unchecked.remove(key)
                return
        self._send(("cancel", key))

    def _check(self) -> None:
        """Pass requests on whose answers must match something, once that is known to be usable."""
        while (request := self._to_check.get()) is not None:
            constraint, event = None, None
            try:
                constraint = self.checker.constraint((request.guide, request.bad_strings, request.end_id is None))
            except Refusal as refusal:
                event = EngineEvent(request.key, error=refusal)
            with self._send_lock:
                if request.key not in self._unchecked:
                    event = EngineEvent(request.key, finish_reason=FinishReason.CANCELLED)
                self._unchecked.discard(request.key)
                try:
                    self._send(("tell", event) if event is not None else ("submit", request, constraint))
                except EngineDied:
                    # Whoever reads the events hears of it.
                    continue
        self.checker.close()

    def events(self) -> Iterator[list[EngineEvent]]:
        while not self._closing:
            try:
                batch = self._receive()
            except EngineDied:
                if self._closing:
                    return
                raise
            assert isinstance(batch, list)
            ended = {event.key for event in batch if event.is_last}
            if ended:
                with self._send_lock:
                    self._active -= ended
            yield batch

    def close(self) -> None:
        self._closing = True
        self._to_check.put(None)
        try:
            # Wakes a reader that waits in recv, which closing alone does not.
            with socket.socket(fileno=self._connection.fileno()) as raw:
                raw.shutdown(socket.SHUT_RDWR)
                raw.detach()
        except OSError:
            pass
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
