"""Ties a run to Locust: its options, its begin and end, and what its processes tell each other.

Imported once in each process, by whatever imports LlmUser. Locust has patched the standard library by then; gRPC is
told to work with greenlets, too.
"""

import contextlib
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import gevent
import grpc.experimental.gevent
from locust import events
from locust.runners import LocalRunner, MasterRunner, WorkerRunner

from .conductor import Conductor
from .errors import LoadError
from .prompts import WordCost
from .session import Session
from .settings import Settings, add_options
from .targets import grpc_link

if TYPE_CHECKING:
    from .open_loop import Crowd

grpc.experimental.gevent.init_gevent()

logger = logging.getLogger(__name__)

# The steps of a shape are to be steps.
logging.getLogger("locust.runners").addFilter(lambda record: "spawn rate is very high" not in record.getMessage())

#: Messages between Locust's processes: a worker's last report, and why it cannot go on.
_FINAL, _FAILED = "trireme-final", "trireme-failed"

#: How long after the last worker's start the clock of a run begins, in s.
_LEAD_S = 0.2

#: How many connections an open loop makes before its first request, at the most: a second's worth, if that is fewer.
_MOST_READY = 64

#: How long children may take to end.
_REAP_S = 10.0


class _Plugin:
    """What a process of Locust knows of the run: a worker a session, a master a conductor, a lone process both."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.conductor: Conductor | None = None
        self.crowd: Crowd | None = None
        self.tasks: list[gevent.Greenlet] = []
        self.finals: set[str] = set()


def _of(environment: Any) -> _Plugin:
    if not hasattr(environment, "trireme"):
        environment.trireme = _Plugin()
    found = environment.trireme
    assert isinstance(found, _Plugin)
    return found


def session_of(environment: Any) -> Session:
    """This process's part in the run that is under way."""
    session = _of(environment).session
    assert session is not None, "no run is under way in this process"
    return session


def conductor_of(environment: Any) -> Conductor | None:
    """What knows the whole run, in the process that does; None before the first."""
    return _of(environment).conductor


def fail(environment: Any, message: str) -> None:
    """End the run: what came so far is partial, for this reason."""
    runner = environment.runner
    if isinstance(runner, WorkerRunner):
        runner.send_message(_FAILED, {"message": message})
        return
    conductor = _of(environment).conductor
    if conductor is not None:
        conductor.give_up(message)


@events.init_command_line_parser.add_listener
def _add_options(parser: Any) -> None:
    add_options(parser)
    parser.add_argument(
        "--only-llm",
        action="store_true",
        help="show only the LLM figures in the end, not Locust's own",
        include_in_web_ui=False,
    )


@events.init.add_listener
def _init(environment: Any, runner: Any, web_ui: Any, **_: Any) -> None:
    if environment.parsed_options.target == "grpc":
        # It takes half a second until it is there.
        grpc_link.link()
    if isinstance(runner, WorkerRunner):
        _report_of_worker(environment)
        return
    try:
        Settings.of(environment.parsed_options)
    except LoadError as error:
        print(f"trireme load: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
    if isinstance(runner, MasterRunner):
        _reports_to_master(environment)
        runner.register_message(_FINAL, _on_final)
        runner.register_message(_FAILED, _on_failed)
    if environment.parsed_options.only_llm:
        logging.getLogger("locust.stats_logger").setLevel(logging.WARNING)
    if web_ui is not None:
        from .web import extend

        extend(environment, web_ui)


@events.test_start.add_listener
def _begin(environment: Any, **_: Any) -> None:
    runner, options, plugin = environment.runner, environment.parsed_options, _of(environment)
    if not isinstance(runner, WorkerRunner):
        try:
            settings = Settings.of(options)
            plugin.finals.clear()
            plugin.conductor = Conductor(environment, settings)
            cost = plugin.conductor.prepare()
        except (LoadError, OSError) as error:
            _refuse(environment, str(error))
            return
        # Locust hands the options on to the workers.
        options.run_began = time.time() + _LEAD_S
        options.leader_run_time = options.run_time
        options.word_cost = [cost.fixed, cost.per_word]
        options.worker_count = plugin.conductor.processes
        plugin.conductor.start(options.run_began)
    if not isinstance(runner, MasterRunner):
        _begin_session(environment)


def _refuse(environment: Any, message: str) -> None:
    """Not even begin."""
    if environment.web_ui is None:
        print(f"trireme load: {message}", file=sys.stderr, flush=True)
        _end_process(environment, 1)
    logger.error(message)
    _of(environment).session = None
    gevent.spawn(environment.runner.stop)


def _begin_session(environment: Any) -> None:
    runner, options, plugin = environment.runner, environment.parsed_options, _of(environment)
    workers = 1 if isinstance(runner, LocalRunner) else int(options.worker_count)
    worker = 0 if isinstance(runner, LocalRunner) else int(runner.worker_index)
    # The address is not among the options that a worker is handed.
    options.host = environment.host or options.host
    settings = Settings.of(options)
    session = plugin.session = Session(settings, options.run_began, worker, workers, WordCost(*options.word_cost))
    session.monitor.start()
    if settings.target == "grpc":
        link = grpc_link.link()
        link.on_busy = session.monitor.take
        link.on_lost = lambda why: fail(environment, why)
    # A user who is stopped in the middle of a turn comes to its end.
    environment.stop_timeout = settings.timeout_s
    if settings.arrivals.is_open:
        from .open_loop import Crowd

        crowd = plugin.crowd = Crowd(environment, session)

        def ask_one(intended_s: float, prompt: Any) -> None:
            try:
                crowd.ask_one(intended_s, prompt)
            except LoadError as error:
                fail(environment, str(error))
            except Exception as error:
                logger.exception("a turn raised an exception")
                _fail_of(environment, "the scenario", error)

        def arrive() -> None:
            try:
                crowd.connect(min(_MOST_READY, 4 + int(settings.shape.top / workers)))
            except LoadError as error:
                fail(environment, str(error))
                return
            session.run_open_loop(ask_one)

        plugin.tasks.append(gevent.spawn(arrive))
    if isinstance(runner, LocalRunner):
        plugin.tasks.append(gevent.spawn(_report_locally, environment))


def _report_locally(environment: Any) -> None:
    while True:
        gevent.sleep(1)
        _take(environment, _report(environment))


def _report(environment: Any) -> dict[str, Any]:
    session = _of(environment).session
    if session is None:
        return {}
    return {"rows": session.take_rows(), "generator": vars(session.monitor.seen), "in_flight": session.in_flight}


def _take(environment: Any, report: dict[str, Any]) -> None:
    conductor = _of(environment).conductor
    if conductor is not None and report:
        conductor.take(report)


def _report_of_worker(environment: Any) -> None:
    """Let a worker's reports hold what its session has to say."""

    def add(client_id: str, data: dict[str, Any], **_: Any) -> None:
        data["trireme"] = _report(environment)

    environment.events.report_to_master.add_listener(add)


def _reports_to_master(environment: Any) -> None:
    """Let a master take it."""

    def take(client_id: str, data: dict[str, Any], **_: Any) -> None:
        _take(environment, data.get("trireme") or {})

    environment.events.worker_report.add_listener(take)


def _on_final(environment: Any, msg: Any, **_: Any) -> None:
    _take(environment, msg.data)
    _of(environment).finals.add(msg.node_id)


def _on_failed(environment: Any, msg: Any, **_: Any) -> None:
    fail(environment, msg.data["message"])


@events.user_error.add_listener
def _raised(user_instance: Any, exception: Exception, **_: Any) -> None:
    # Where the exception came out of a task, Locust names the set of tasks.
    user = getattr(user_instance, "user", user_instance)
    _fail_of(user.environment, type(user).__name__, exception)


def _fail_of(environment: Any, scenario: str, exception: Exception) -> None:
    fail(environment, f"{scenario} raised {type(exception).__name__}: {exception}")


@events.test_stopping.add_listener
def _stopping(environment: Any, **_: Any) -> None:
    plugin = _of(environment)
    if plugin.conductor is not None:
        plugin.conductor.ends()
    if isinstance(environment.runner, MasterRunner):
        _stop_workers(environment)
    elif plugin.session is not None:
        plugin.session.drain()


def _stop_workers(environment: Any) -> None:
    """Let every worker come to its end, and wait for its last report."""
    from locust.rpc.protocol import Message

    runner, plugin = environment.runner, _of(environment)
    if plugin.conductor is None:
        return
    waiting = {client.id for client in runner.clients.all if client.state in ("running", "spawning")}
    for name in waiting:
        runner.server.send_to_client(Message("stop", None, name))  # type: ignore[no-untyped-call]
    deadline = time.monotonic() + plugin.conductor.settings.timeout_s + _REAP_S
    while waiting - plugin.finals and time.monotonic() < deadline:
        missing = {client.id for client in runner.clients.all if client.state == "missing"}
        if waiting - plugin.finals <= missing:
            break
        gevent.sleep(0.05)
    lost = len(waiting - plugin.finals)
    if lost:
        plugin.conductor.give_up(f"{lost} of {len(waiting)} processes of the load generator ended without a report")


@events.test_stop.add_listener
def _stopped(environment: Any, **_: Any) -> None:
    runner, plugin = environment.runner, _of(environment)
    gevent.killall(plugin.tasks)
    plugin.tasks.clear()
    report = _report(environment)
    if plugin.crowd is not None:
        plugin.crowd.close()
        plugin.crowd = None
    if plugin.session is not None:
        plugin.session.monitor.stop()
        plugin.session = None
    # Locust would wait for so long before a worker takes part in the next run.
    environment.stop_timeout = 0.0
    if isinstance(runner, WorkerRunner):
        runner.send_message(_FINAL, report)
        return
    _take(environment, report)
    if plugin.conductor is not None:
        environment.process_exit_code = plugin.conductor.finish()


@events.quitting.add_listener
def _quitting(environment: Any, **_: Any) -> None:
    """Ctrl-C or SIGTERM: what there is makes the exit status, which Locust settles right after this."""
    runner = environment.runner
    if not isinstance(runner, WorkerRunner) and _of(environment).conductor is not None:
        runner.stop()


@events.quit.add_listener
def _quit(exit_code: int, **_: Any) -> None:
    _end_process(None, exit_code)


def _end_process(environment: Any, code: int) -> None:
    """End at once: gRPC's threads would keep a process with greenlets from ever ending."""
    if environment is not None and isinstance(environment.runner, MasterRunner):
        environment.runner.quit()
    grpc_link.close()
    deadline = time.monotonic() + _REAP_S
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.02)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
