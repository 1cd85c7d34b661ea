"""Starting, growing, draining and stopping a fleet."""

import contextlib
import fcntl
import http.client
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from .. import ports
from ..errors import OperatorError
from ..health import BALANCER_PATH
from ..layout import Layout
from ..releases.control import Address, Control, Unreachable
from ..releases.events import Event
from ..releases.haproxy import HAProxy, HAProxyError
from ..releases.settle import settle
from ..releases.view import runs
from .configs import SHUTDOWN_DELAY_S, write_configs
from .haproxy_config import BACKENDS
from .memory import follow, remember
from .plan import FleetPlan, GatewayPlan, ServerPlan, read_plan, server_plan, state_path
from .processes import Processes

_POLL_S = 0.1

#: How long a server may take to be ready, HAProxy to see it, and the rest to start, in s.
_READY_S = 180.0
_SEEN_S = 20.0

#: How long servers may take to end whose keeper is gone, beyond the time for what they have under way, in s.
_END_S = 45.0

#: How long a server may think about its status.
_ASK_S = 2.0

#: Between the first ports of two servers, where they are not chosen by the system.
_PORT_STEP = 10


@dataclass(frozen=True)
class ServerStatus:
    """A server, as its supervisor and HAProxy see it.

    state: ready, draining, not ready, or down where its supervisor does not answer. releases: LLM -> what is live,
    empty without a release. in_flight: None where it is not known. haproxy: the status in the backend `grpc`, and its
    weight there. process: that of `trireme serve`.
    """

    name: str
    state: str
    releases: dict[str, str]
    in_flight: int | None
    haproxy: str
    weight: int | None
    process: str


class Fleet:
    """A fleet that `plan` describes. say: prints a line of progress."""

    def __init__(self, layout: Layout, plan: FleetPlan, say: Callable[[str], None]) -> None:
        self._layout = layout
        self.plan = plan
        self._say = say
        self.processes = Processes(plan.supervisor_socket)

    @classmethod
    def find(cls, layout: Layout, say: Callable[[str], None]) -> "Fleet":
        """The one that runs. Raises OperatorError if none does."""
        fleet = cls(layout, read_plan(layout), say)
        if not fleet.processes.is_running():
            again = shlex.join(["trireme", "fleet", "up", *fleet.plan.options])
            raise OperatorError(
                f"the fleet does not run: it ended without `trireme fleet down`. Its logs: {fleet.plan.logs}. "
                f"It was started with: {again}"
            )
        return fleet

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """For one operator at a time. Raises OperatorError while another one is at work."""
        try:
            self.plan.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = (self.plan.folder / "lock").open("w")
        except OSError as error:
            raise OperatorError(
                f"{error.filename} cannot be used: {error.strerror}. What a fleet keeps is written there"
            ) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OperatorError("another `trireme fleet` is changing this fleet; wait for its end") from None
            yield

    def up(self) -> None:
        """Start everything, and wait until it serves. What was begun is stopped where that fails."""
        if self.processes.is_running():
            raise OperatorError("the fleet runs already. See it: trireme fleet status. Stop it: trireme fleet down")
        plan = self.plan
        plan.logs.mkdir(parents=True, exist_ok=True)
        for server in plan.servers:
            plan.ready_file(server.name).unlink(missing_ok=True)
        write_configs(self._layout, plan)
        # Of a fleet before; only the version of the format, without which HAProxy warns.
        self._haproxy_state.write_text("1\n", encoding="ascii")
        plan.save()
        remember(plan.folder, [server.name for server in plan.servers])
        self._say(f"Starting {_servers(len(plan.servers))} ...")
        self.processes.start_supervisor(plan.folder / "supervisord.conf")
        try:
            self._wait_for_servers(plan.servers)
            if plan.gateways:
                self._wait_until_seen(plan.gateways, ["gateway"])
            if plan.prometheus:
                self._wait_for(
                    "Prometheus", lambda: _answers(plan.prometheus, "/-/ready"), whose_logs=lambda: ["prometheus"]
                )
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                self._say("Interrupted; what was begun is stopped.")
            self.down()
            raise

    def down(self) -> None:
        """Stop everything: first the way in, when its streams have ended, then who answers them."""
        if not self.processes.is_running():
            self._say("The fleet had ended without `trireme fleet down`.")
            self.wait_until_ended()
            self._remove_files()
            return
        states = {one.name: one for one in self.processes.all()}
        servers = [one.name for one in self.plan.servers if one.name in states]
        others = [name for name in ("prometheus", "blackbox", "redis") if name in states]
        for group in (["haproxy"], [one.name for one in self.plan.gateways], servers, others):
            if group:
                self._say(f"Stopping {', '.join(group)} ...")
                self.processes.stop_all(group)
        self.processes.shutdown(60)
        self._remove_files()

    def _remove_files(self) -> None:
        plan = self.plan
        for left in (state_path(plan.folder), Path(plan.edge.socket), plan.supervisor_socket, self._haproxy_state):
            left.unlink(missing_ok=True)

    def wait_until_ended(self) -> None:
        """Wait for servers whose keeper is gone to answer what they have. Raises OperatorError if that lasts."""
        left = self._left()
        if not left:
            return
        self._say(f"{', '.join(left)}: still answering what was under way; waiting for the end ...")
        deadline = time.monotonic() + self.plan.drain_timeout_s + _END_S
        while left := self._left():
            if time.monotonic() > deadline:
                raise OperatorError(
                    f"{', '.join(left)}: still running in this checkout, and no fleet has started what runs there. End "
                    "them (`trireme serve` with these names), and try again"
                )
            time.sleep(_POLL_S)

    def _left(self) -> list[str]:
        return [server.name for server in self.plan.servers if runs(self._layout, server.name)]

    def scale(self, replicas: int) -> None:
        """Add servers, or drain and remove the last ones. Raises ActRefused while a release is on its way."""
        servers = self.plan.servers
        with self._locks(f"trireme fleet scale {replicas}"):
            if replicas > len(servers):
                self._grow(replicas - len(servers))
            elif replicas < len(servers):
                self._shrink(servers[replicas:])

    @contextlib.contextmanager
    def _locks(self, purpose: str) -> Iterator[Callable[[ServerPlan], None]]:
        """Keep others from changing what servers serve; what was left half done is settled first.

        Yields what locks one that was started again. Raises ActRefused naming who is at work.
        """
        with contextlib.ExitStack() as held:

            def lock(server: ServerPlan) -> None:
                control = self._control(server)
                try:
                    found = control.lock(purpose)
                except Unreachable:
                    return
                held.callback(control.unlock)
                if found is not None:
                    settle(control, found, self._tell_event)

            for server in self.plan.servers:
                lock(server)
            yield lock

    def _tell_event(self, event: Event) -> None:
        self._say(f"{event.server}: {event.text}")

    def _grow(self, count: int) -> None:
        old = self.plan.servers
        added = next_servers(old, count, iter(ports.free_ports(4 * count)), _first_port(old), ports.is_free)
        follow(self._layout, [server.name for server in old], [server.name for server in added], self._say)
        self._change(replace(self.plan, servers=(*old, *added)))
        self.processes.update()
        self._wait_for_answers(added)
        # Only now, that they can answer.
        self._tell()
        self._wait_until_seen(added)

    def _shrink(self, removed: Sequence[ServerPlan]) -> None:
        for server in removed:
            self.drain(server.name)
        kept = tuple(server for server in self.plan.servers if server not in removed)
        self._change(replace(self.plan, servers=kept))
        self._tell()
        self._say(f"Stopping {', '.join(server.name for server in removed)} ...")
        self.processes.stop_all([server.name for server in removed])
        self.processes.update()

    def _change(self, plan: FleetPlan) -> None:
        self.plan = plan
        write_configs(self._layout, plan)
        plan.save()
        remember(plan.folder, [server.name for server in plan.servers])

    @property
    def _haproxy_state(self) -> Path:
        return self.plan.folder / "haproxy.state"

    def drain(self, name: str, force: bool = False) -> None:
        """Have a server get nothing new, and wait until what it has is answered.

        Raises OperatorError if that lasts, and, without `force`, for the only one that takes requests.
        """
        server = self.plan.server(name)
        if not force and self._is_the_only_one(server):
            raise OperatorError(
                f"{name} is the only server that takes requests: drained, nobody would be answered. --force does it"
            )
        control = self._control(server)
        control.drain()
        self._say(f"{name} gets nothing new; waiting for what it has ...")
        # Balancers have asked again by then.
        deadline = time.monotonic() + SHUTDOWN_DELAY_S + self.plan.drain_timeout_s
        seen = time.monotonic() + SHUTDOWN_DELAY_S / 2
        while True:
            in_flight = control.status().get("in_flight")
            running = self.running(name)
            if not in_flight and not running and time.monotonic() > seen:
                return
            if time.monotonic() > deadline:
                raise OperatorError(
                    f"{name} has still {in_flight} requests after {self.plan.drain_timeout_s} s, and gets nothing new. "
                    f"Wait longer: trireme fleet drain {name}. Take it back: trireme fleet resume {name}"
                )
            time.sleep(_POLL_S)

    def resume(self, name: str) -> None:
        """Have a server get requests again."""
        server = self.plan.server(name)
        self._control(server).resume()
        self._wait_for(name, partial(_takes_requests, server), whose_logs=lambda: [name])
        self._wait_until_seen([server])
        self._say(f"{name} gets requests again.")

    def restart(self, names: Sequence[str]) -> None:
        """Restart servers one after the other, each drained; no further one where one does not come back.

        Raises ActRefused while a release is on its way.
        """
        servers = [self.plan.server(name) for name in names]
        with self._locks(f"trireme fleet restart {' '.join(names)}") as lock:
            for server in servers:
                self._restart(server)
                lock(server)

    def _restart(self, server: ServerPlan) -> None:
        name = server.name
        if len(self.plan.servers) > 1 and self._is_the_only_one(server):
            raise OperatorError(f"{name} is the only server that takes requests; it is not restarted")
        with contextlib.suppress(Unreachable):
            self.drain(name, force=True)
        self._say(f"Restarting {name} ...")
        self.processes.stop(name)
        self.processes.start(name)
        self._wait_for_servers([server])

    def _is_the_only_one(self, server: ServerPlan) -> bool:
        takes = [one for one in self.plan.servers if _takes_requests(one)]
        return takes == [server]

    def reload(self) -> None:
        """Have HAProxy, the gateways and Prometheus read their files again: certificates, settings, rules."""
        write_configs(self._layout, self.plan)
        self._tell()

    @property
    def haproxy(self) -> HAProxy:
        """HAProxy's admin socket."""
        return HAProxy(self.plan.edge.socket)

    def running(self, name: str) -> int:
        """What HAProxy has under way on a server; 0 where it does not say."""
        with contextlib.suppress(HAProxyError, KeyError):
            return sum(self.haproxy.stats(backend)[name].running for backend in BACKENDS)
        return 0

    def status(self) -> list[ServerStatus]:
        """Of every server."""
        processes = {one.name: one for one in self.processes.all()}
        return [self._status_of(server, processes) for server in self.plan.servers]

    def _status_of(self, server: ServerPlan, processes: "dict[str, Any]") -> ServerStatus:
        process = processes.get(server.name)
        haproxy, weight = "", None
        with contextlib.suppress(HAProxyError, KeyError):
            haproxy = self.haproxy.stats("grpc")[server.name].status
            weight = self.haproxy.weights("grpc")[server.name].current
        try:
            status = self._control(server).status(_ASK_S)
            takes = _takes_requests(server)
        except OperatorError:
            status, takes = {}, False
        state = "down" if not status else "draining" if status["draining"] else "ready" if takes else "not ready"
        how = f"{process.state.lower()}, {process.description}" if process else "none"
        return ServerStatus(server.name, state, _live(status), status.get("in_flight"), haproxy, weight, how)

    def _tell(self) -> None:
        """Have everybody read what is written now; HAProxy's new process takes over listeners and states."""
        with contextlib.suppress(HAProxyError):
            state = self.haproxy.servers_state()
            self._haproxy_state.write_text(state, encoding="utf-8")
        self.processes.signal("haproxy", "USR2")
        for gateway in self.plan.gateways:
            self.processes.signal(gateway.name, "HUP")
        if self.plan.prometheus:
            self.processes.signal("prometheus", "HUP")

    def _wait_for_answers(self, servers: Sequence[ServerPlan]) -> None:
        began = time.monotonic()
        waiting = list(servers)

        def are_ready() -> bool:
            for server in [one for one in waiting if _takes_requests(one)]:
                self._say(f"{server.name} is ready after {time.monotonic() - began:.1f} s.")
                waiting.remove(server)
            return not waiting

        self._wait_for("the servers", are_ready, _READY_S, lambda: [server.name for server in waiting])

    def _wait_for_servers(self, servers: Sequence[ServerPlan]) -> None:
        self._wait_for_answers(servers)
        self._wait_until_seen(servers)

    def _wait_until_seen(self, parts: Sequence[ServerPlan | GatewayPlan], backends: Sequence[str] = BACKENDS) -> None:
        """Until HAProxy's checks have found all of them ready, and it sends them requests."""

        def is_seen() -> bool:
            with contextlib.suppress(HAProxyError):
                known = [self.haproxy.stats(backend) for backend in backends]
                return all(one.name in rows and rows[one.name].status == "UP" for one in parts for rows in known)
            return False

        names = [part.name for part in parts]
        self._wait_for(f"HAProxy to see {', '.join(names)}", is_seen, _SEEN_S, lambda: ["haproxy", *names])

    def _wait_for(
        self,
        what: str,
        is_so: Callable[[], bool],
        timeout_s: float = 30.0,
        whose_logs: Callable[[], Sequence[str]] = lambda: (),
    ) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_so():
            if time.monotonic() > deadline:
                ends = [f"{name}.log: {_tail(self.plan.logs / f'{name}.log')}" for name in whose_logs()]
                raise OperatorError("\n".join([f"waited {timeout_s:g} s in vain for {what}", *ends]))
            time.sleep(_POLL_S)

    def _control(self, server: ServerPlan) -> Control:
        return Control(Address.parse(server.health, server.name), self._layout.control_key())


def next_servers(
    old: Sequence[ServerPlan],
    count: int,
    free: Iterator[int],
    first_port: int = 0,
    may_use: Callable[[int], bool] = lambda _port: True,
    release: str = "",
) -> tuple[ServerPlan, ...]:
    """`count` servers more.

    first_port: of server-1's four, from which the others' are counted. Where it is 0, or one of four is none that
    `may_use` allows, they are `free` ones.
    """
    taken = {server.name for server in old}
    numbers = [number for number in range(1, len(old) + count + 1) if f"server-{number}" not in taken][:count]
    made = []
    for number in numbers:
        start = first_port + _PORT_STEP * (number - 1)
        four = [start + offset for offset in range(4)]
        if not first_port or not all(map(may_use, four)):
            four = [next(free) for _ in four]
        made.append(server_plan(number, four, release))
    return tuple(made)


def _first_port(servers: Sequence[ServerPlan]) -> int:
    """The first port of server-1, from which those of others are counted; 0 where ports were not chosen in a row."""
    first = [server for server in servers if server.name == "server-1"]
    if not first:
        return 0
    four = [first[0].port(endpoint) for endpoint in ("http", "grpc", "metrics", "health")]
    return four[0] if four == list(range(four[0], four[0] + 4)) else 0


def _servers(count: int) -> str:
    return f"{count} server{'' if count == 1 else 's'}"


def _live(status: "dict[str, Any]") -> dict[str, str]:
    return {name: str(llm.get("live") or "") for name, llm in status.get("llms", {}).items()}


def _takes_requests(server: ServerPlan) -> bool:
    """What its supervisor tells balancers."""
    return _answers(server.health, "/" + "/".join(BALANCER_PATH))


def _answers(address: str, path: str) -> bool:
    """Whether HOST:PORT answers with 200."""
    connection = http.client.HTTPConnection(address, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _tail(path: Path, lines: int = 12) -> str:
    if not path.exists():
        return "nothing"
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
