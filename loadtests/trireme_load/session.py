"""One process's part in a run: its clock, its connections, its requests, and what it has to report."""

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import gevent

from trireme_client import Generation, TriremeError
from trireme_client.errors import code_of

from .arrivals import schedule
from .errors import UnreachableError
from .monitor import Monitor
from .prompts import Prompt, Prompts, WordCost
from .record import CANCELLED, OK, Record, to_row
from .settings import Settings
from .targets import Answer, Target, connect
from .targets.answer import clock

#: How long after a refused connection a user tries again: a server that is gone must not be asked in a busy loop.
_PAUSE_AFTER_ERROR_S = 0.2


class Session:
    """began: the run's begin on this machine's clock, in s since the epoch. worker: this process, of `workers`."""

    def __init__(self, settings: Settings, began: float, worker: int, workers: int, cost: WordCost) -> None:
        self.settings = settings
        self.worker = worker
        self.workers = workers
        self.cost = cost
        self.monitor = Monitor(worker)
        self.is_over = False
        self.in_flight = 0
        self._zero = clock() - (time.time() - began)
        self._rows: list[list[Any]] = []
        self._users = 0
        self._forgot = False

    def now_s(self) -> float:
        """Since the run's begin."""
        return clock() - self._zero

    def connect(self) -> Target:
        """A connection to the server. Raises LoadError."""
        return connect(self.settings.target, self.settings.address, self.settings.timeout_s)

    def next_user(self) -> int:
        """A number for a user of this process."""
        self._users += 1
        return self._users

    def prompts(self, user: int) -> Prompts:
        """A user's own sequence of prompts."""
        return self.settings.source.prompts(self.cost, f"{self.settings.seed} {self.worker} {user}")

    def chance(self, user: int) -> random.Random:
        """A user's own dice."""
        return random.Random(f"{self.settings.seed} {self.worker} {user} dice")

    def generation(self, prompt: Prompt, **fields: Any) -> Generation:
        """What is sent for a prompt, the options of the run included."""
        values: dict[str, Any] = {
            "prompt": prompt.text,
            "messages": list(prompt.messages) if prompt.messages else None,
            "max_tokens": prompt.max_tokens,
            "temperature": self.settings.temperature,
        }
        if self.settings.target != "openai":
            values |= {"ignore_eos": True if prompt.ignore_eos else None, "metrics": True}
        return Generation(**{**values, **fields})

    def ask(
        self,
        target: Target,
        generation: Generation,
        scenario: str,
        user: int,
        model: str | None = None,
        stream: bool = True,
        leave_after: int | None = None,
        intended_s: float | None = None,
    ) -> Record:
        """Ask, and keep the record. intended_s: when it was to be sent, now where that is None."""
        answer = Answer(leave_after)
        name = model or self.settings.model
        code, text = OK, ""
        self.in_flight += 1
        try:
            target.ask(name, generation, stream, answer)
        except TriremeError as error:
            code, text = code_of(error).name, str(error)
        finally:
            self.in_flight -= 1
        end_s = self.now_s()
        if answer.left:
            code, text = CANCELLED, ""
        sent_s = answer.sent - self._zero if answer.sent else end_s
        times = [at - self._zero for at in answer.text_at] if stream else []
        record = Record(
            scenario=scenario,
            model=name,
            target=self.settings.target,
            streamed=stream,
            worker=self.worker,
            user=user,
            intended_s=sent_s if intended_s is None else intended_s,
            sent_s=sent_s,
            first_token_s=times[0] if times else None,
            last_token_s=times[-1] if times else None,
            end_s=end_s,
            gaps_s=answer.gaps_s if stream else (),
            input_tokens=answer.input_tokens,
            output_tokens=answer.output_tokens,
            code=code,
            error=text[:500],
            finish_reason=answer.finish_reason,
            queue_s=answer.queue_s,
            release=answer.release,
        )
        self._keep(record, answer.messages)
        if record.is_failed:
            gevent.sleep(_PAUSE_AFTER_ERROR_S)
        return record

    def _keep(self, record: Record, messages: int) -> None:
        if not self._forgot and record.intended_s >= self.settings.warm_up_s:
            self._forgot = True
            self.monitor.forget()
        self.monitor.messages += messages
        self.monitor.late.add([record.lag_s])
        self._rows.append(to_row(record))

    def take_rows(self) -> list[list[Any]]:
        """The requests that ended since the last time."""
        rows, self._rows = self._rows, []
        return rows

    def run_open_loop(self, ask_one: Callable[[float, Prompt | None], None]) -> None:
        """Send this process's share of an open loop, each request when its time comes, in a greenlet of its own.

        ask_one: sends one that was intended for that time; with a prompt where a trace says how long it is.
        """
        settings = self.settings
        arrivals = schedule(
            settings.arrivals,
            settings.shape,
            settings.whole_s or float("inf"),
            settings.seed,
            settings.trace,
            self.worker,
            self.workers,
        )
        made = self.prompts(0)
        for arrival in arrivals:
            delay_s = arrival.at_s - self.now_s()
            if delay_s > 0:
                gevent.sleep(delay_s)
            if self.is_over:
                return
            call = arrival.call
            prompt = made.of_length(call.prompt_tokens, call.output_tokens) if call else None
            gevent.spawn(ask_one, arrival.at_s, prompt)

    def drain(self) -> None:
        """Send no more, and wait for what is under way."""
        self.is_over = True
        deadline = clock() + self.settings.timeout_s
        while self.in_flight and clock() < deadline:
            gevent.sleep(0.02)


def measure_word_cost(settings: Settings) -> WordCost:
    """What a word of made-up prompts costs in tokens, as the server counts. Raises UnreachableError if it does not."""
    target = connect(settings.target, settings.address, settings.timeout_s)

    def tokens_of(text: str) -> int:
        answer = Answer()
        target.ask(settings.model, Generation(prompt=text, max_tokens=1), True, answer)
        return answer.input_tokens

    try:
        return WordCost.measured(tokens_of)
    except TriremeError as error:
        raise UnreachableError(f"{settings.address} cannot be asked: {type(error).__name__}: {error}") from None
    finally:
        target.close()


def weighted(choices: Sequence[Any], chance: random.Random) -> Any:
    """One of some user classes, by their weight."""
    return chance.choices(choices, [getattr(choice, "weight", 1) for choice in choices])[0]
