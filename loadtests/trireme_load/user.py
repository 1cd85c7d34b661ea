"""The class that scenarios are made from: a Locust user who asks an LLM."""

from typing import Any, ClassVar

import gevent
from locust import User, task

from trireme_client import Generation

from . import plugin
from .errors import LoadError
from .prompts import Prompt
from .record import Record
from .session import Session
from .targets import Target


class RequestFailed(Exception):
    """What Locust's own statistics show of a request that failed."""


class LlmUser(User):
    """A user of an LLM. A scenario is a subclass with a `turn`: what a user does once, over and over.

        class Poet(LlmUser):
            def turn(self) -> None:
                self.ask("Write a poem.", max_tokens=200)

    In a closed loop a turn follows the other. In an open loop each arrival is one turn, of a user of its own if all
    others are busy; `self.intended_s` is then the time that it was planned for.
    """

    abstract = True

    #: The LLM that is asked; None: the one of --model.
    model: ClassVar[str | None] = None

    #: How long a user waits between two turns of a closed loop, in s.
    pause_s: ClassVar[float] = 0.0

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.intended_s: float | None = None
        self._target: Target | None = None

    def turn(self) -> None:
        """What this user does once. To be overridden."""
        raise NotImplementedError

    @property
    def session(self) -> Session:
        """This process's part in the run."""
        return plugin.session_of(self.environment)

    def prepare(self) -> None:
        """Take a number, prompts and dice of one's own, and connect. Raises LoadError."""
        self.number = self.session.next_user()
        self.prompts = self.session.prompts(self.number)
        self.chance = self.session.chance(self.number)
        self._target = self.session.connect()

    def next_prompt(self) -> Prompt:
        """The next one of --prompts, or of the trace."""
        return self._given or self.prompts.next()

    _given: Prompt | None = None

    def ask(
        self,
        prompt: Prompt | str | None = None,
        *,
        stream: bool = True,
        model: str | None = None,
        leave_after: int | None = None,
        name: str | None = None,
        **fields: Any,
    ) -> Record:
        """Ask, wait for the answer's end, and keep its record. A request that fails is recorded, and raises nothing.

        prompt: the next one if None. leave_after: hang up after so many messages with text. name: of the scenario; that
        of the class else. fields: those of `trireme_client.Generation`.
        """
        assert self._target is not None
        asked = Prompt(prompt) if isinstance(prompt, str) else prompt or self.next_prompt()
        generation: Generation = self.session.generation(asked, **fields)
        record = self.session.ask(
            self._target,
            generation,
            scenario=name or type(self).__name__,
            user=self.number,
            model=model or self.model,
            stream=stream,
            leave_after=leave_after,
            intended_s=self.intended_s,
        )
        self._tell_locust(record)
        return record

    def _tell_locust(self, record: Record) -> None:
        self.environment.events.request.fire(
            request_type=record.target,
            name=record.scenario,
            response_time=1000 * record.e2e_s,
            response_length=record.output_tokens,
            exception=RequestFailed(f"{record.code}: {record.error}") if record.is_failed else None,
            context={},
        )

    def on_start(self) -> None:
        if self.session.settings.arrivals.is_open:
            return
        try:
            self.prepare()
        except LoadError as error:
            plugin.fail(self.environment, str(error))
        # All processes of a run begin at one time.
        gevent.sleep(max(0.0, -self.session.now_s()))

    def on_stop(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._target is not None:
            self._target.close()
            self._target = None

    @task
    def _turns(self) -> None:
        session = self.session
        if session.is_over or session.settings.arrivals.is_open or self._target is None:
            # The arrivals of an open loop are seen to elsewhere; Locust's users only stand for the process.
            gevent.sleep(0.1)
            return
        self.turn()
        if self.pause_s:
            gevent.sleep(self.pause_s)

    def turn_for(self, intended_s: float, prompt: Prompt | None) -> None:
        """One turn of an open loop."""
        self.intended_s, self._given = intended_s, prompt
        self.turn()
