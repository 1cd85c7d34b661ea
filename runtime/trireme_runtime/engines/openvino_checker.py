"""Checks what an answer must match before the engine sees it, in a process that may be lost.

The engine compiles a grammar in the middle of a step of all requests: an invalid one would end that step with an error,
and one that explodes would hold all of them up. So it is compiled here first, on a model with the same vocabulary and
next to no weights, and given up after a time limit.

As a process: takes (Guide or None, bad strings, endless) from the inherited socket whose number is its argument, and
answers each with a Constraint or a Refusal.
"""

import re
import signal
import subprocess
import sys
from collections import OrderedDict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from trireme_runtime.contract import Refusal, invalid

from .base import Guide
from .child_process import start_child
from .openvino_guides import Constraint, constraint_of

#: Question to the checker: a guide, texts that must not come up, and whether no id ends the answer.
Question = tuple[Guide | None, tuple[str, ...], bool]

#: Processor time that a grammar may take to compile. The engine compiles it once more, and its streams wait for that.
COMPILE_LIMIT_S = 2.0

#: How long to wait for an answer on a busy machine.
_ANSWER_LIMIT_S = 60.0

#: Answers that are remembered.
_REMEMBERED = 256

_SOURCE_POSITION = re.compile(r"\A\[[\d:]+\] \S+:\d+: (?:Check failed: \([^\n]*?\) is false: )?")


class GrammarChecker:
    """The checker's process, started at the first question. For one thread."""

    def __init__(self, model_folder: Path) -> None:
        self._model_folder = model_folder
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._answers: OrderedDict[Question, Constraint | Refusal] = OrderedDict()

    def constraint(self, question: Question) -> Constraint:
        """The constraint, which the engine can compile. Raises Refusal where there is none."""
        answer = self._answers.get(question)
        if answer is None:
            # A process that was lost for another reason than this question gets a successor.
            answer = self._ask(question) or self._ask(question) or _refusal(question, "cannot be compiled")
            self._answers[question] = answer
            while len(self._answers) > _REMEMBERED:
                self._answers.popitem(last=False)
        if isinstance(answer, Refusal):
            raise answer
        return answer

    def _ask(self, question: Question) -> Constraint | Refusal | None:
        """The process's answer, None if it was lost."""
        try:
            if self._connection is None:
                self._process, self._connection = start_child(__name__, stderr=subprocess.DEVNULL)
                self._connection.send(self._model_folder)
            self._connection.send(question)
            if self._connection.poll(_ANSWER_LIMIT_S):
                answer = self._connection.recv()
                assert isinstance(answer, Constraint | Refusal)
                return answer
        except (EOFError, OSError):
            pass
        if self.close() in (None, -signal.SIGPROF):
            return _refusal(question, f"takes more than {COMPILE_LIMIT_S:g} s to compile")
        return None

    def close(self) -> int | None:
        """End the process; the status with which it had ended by itself, None if it had not."""
        if self._process is None or self._connection is None:
            return None
        self._connection.close()
        try:
            # It sees the end of its connection within a moment, if it has not ended already.
            status: int | None = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            status = None
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None
        return status


def _refusal(question: Question, problem: str) -> Refusal:
    return invalid(f"{'guided_decoding_guide' if question[0] else 'bad_words'}: {problem}")


class _Compiler:
    """Compiles constraints on the model in `folder` by generating one id with them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pipeline = self._load()
        self._end_id = self._pipeline.get_tokenizer().get_eos_token_id()

    def _load(self) -> Any:
        import openvino_genai as genai

        scheduler = genai.SchedulerConfig()
        scheduler.num_kv_blocks = 4
        scheduler.enable_prefix_caching = False
        return genai.ContinuousBatchingPipeline(str(self._folder), scheduler, "CPU", {})

    def check(self, constraint: Constraint) -> None:
        """Raise Refusal if it cannot be compiled."""
        import numpy as np
        import openvino as ov
        import openvino_genai as genai

        config = genai.GenerationConfig()
        config.max_new_tokens = 1
        # Without an end id the engine leaves the constraint out.
        config.set_eos_token_id(self._end_id)
        config.structured_output_config = genai.StructuredOutputConfig(**{constraint.form: constraint.text})
        try:
            # A request whose handle is let go of is dropped.
            handle = self._pipeline.add_request(1, ov.Tensor(np.zeros((1, 1), dtype=np.int64)), config)
            while self._pipeline.has_non_finished_requests():
                self._pipeline.step()
            (output,) = handle.read().values()
        except RuntimeError as error:
            signal.setitimer(signal.ITIMER_PROF, 0)
            # What a failed step leaves behind goes with the pipeline.
            self._pipeline = self._load()
            message = _SOURCE_POSITION.sub("", str(error).strip())
            raise invalid(f"guided_decoding_guide: {message.splitlines()[0][:300]}") from None
        first_id = output.generated_ids[0]
        if first_id != self._end_id and not self._pipeline.get_tokenizer().decode([first_id]):
            # An id without a text is chosen where no other is allowed.
            raise invalid("guided_decoding_guide: no text matches it")


def _answer(compiler: _Compiler, question: Question) -> Constraint | Refusal:
    guide, bad_strings, endless = question
    # At the limit a signal ends this process: nothing else ends the compiler.
    signal.setitimer(signal.ITIMER_PROF, COMPILE_LIMIT_S)
    try:
        constraint = constraint_of(guide, bad_strings, endless)
        assert constraint is not None
        compiler.check(constraint)
        return constraint
    except Refusal as refusal:
        return refusal
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    connection = Connection(int(sys.argv[1]))
    try:
        compiler = _Compiler(connection.recv())
        while True:
            connection.send(_answer(compiler, connection.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


if __name__ == "__main__":
    main()
