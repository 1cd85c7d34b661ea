"""Draws a frame with rich: servers, releases over all of them, the gateway, and what has been lately."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from .figures import DEFAULT_LLM, Figures
from .frame import HISTORY, Frame, GatewayFrame, History, ReleaseFrame, ServerFrame, State
from .words import NONE, duration, milliseconds, number, percent, quantiles_ms, safe, sparkline, whole

_GAP = 2

#: From here on a share of the KV cache is yellow, and red; and a share of answers that failed.
_KV = (0.75, 0.90)
_ERRORS = (0.0, 0.01)

_STATES = {State.READY: "green", State.UP: "green", State.HALF: "yellow", State.STARTING: "dim"}

SORTS = ("name", "tokens/s", "TTFT", "KV")


@dataclass(frozen=True)
class Cell:
    """A text and its colour."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Column:
    """One column. rank: those with the highest are left out first where there is no room; 0 stays."""

    title: str
    rank: int
    cells: Sequence[Cell]
    is_text: bool = False

    @property
    def width(self) -> int:
        """Of its widest cell."""
        return max(len(self.title), *(len(cell.text) for cell in self.cells)) if self.cells else len(self.title)

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing."""
        return all(cell.text in ("", NONE) for cell in self.cells)


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """Those columns that fit, in their order; those without a figure are left out unless they have rank 0."""
    shown = [column for column in columns if column.rank == 0 or not column.is_empty]
    while sum(column.width + _GAP for column in shown) - _GAP > width and any(column.rank for column in shown):
        shown.remove(max(shown, key=lambda column: column.rank))
    return shown


def _graded(value: float | None, limits: tuple[float, float], text: str, strict: bool = False) -> Cell:
    if value is None:
        return Cell(text, "dim")
    low, high = limits
    if value >= high:
        return Cell(text, "bold red")
    return Cell(text, "yellow" if (value > low if strict else value >= low) else "")


def _figure_columns(figures: Sequence[Figures], several: bool) -> list[Column]:
    """What servers and releases have in common. several: p50, p95 and p99 instead of p95 alone."""

    def cells(of: Callable[[Figures], float | None], show: Callable[[float | None], str] = number) -> list[Cell]:
        return [Cell(NONE, "dim") if one == Figures() or of(one) is None else Cell(show(of(one))) for one in figures]

    def times(of: str) -> list[Cell]:
        histograms = [getattr(one, of) for one in figures]
        if several:
            return [Cell(quantiles_ms(one), "" if one.count else "dim") for one in histograms]
        return [Cell(milliseconds(one.quantile(0.95)), "" if one.count else "dim") for one in histograms]

    def waiting(one: Figures) -> Cell:
        if one == Figures():
            return Cell(NONE, "dim")
        return Cell(whole(one.waiting), "yellow" if one.waiting else "")

    unit = " ms" if several else "95 ms"
    return [
        Column("tok/s", 0, cells(lambda one: one.tokens_per_s)),
        Column("req/s", 6 if several else 2, cells(lambda one: one.requests_per_s)),
        Column("err", 1, [_graded(one.error_rate, _ERRORS, percent(one.error_rate), strict=True) for one in figures]),
        Column(
            "full/s",
            11,
            [Cell(number(one.refused_per_s), "yellow" if one.refused_per_s else "dim") for one in figures],
        ),
        Column("run", 9 if several else 4, cells(lambda one: one.running, whole)),
        Column("wait", 10 if several else 3, [waiting(one) for one in figures]),
        Column("pend", 12, cells(lambda one: one.pending, whole)),
        Column("KV", 8 if several else 3, [_graded(one.kv_share, _KV, percent(one.kv_share)) for one in figures]),
        Column(f"TTFT{unit}", 1, times("ttft")),
        Column(f"TPOT{unit}", 3 if several else 5, times("tpot")),
        Column(f"queue{unit}", 4 if several else 7, times("queue")),
    ]


def _good(figures: Sequence[Figures], ttft_slo_s: float | None) -> list[Column]:
    if ttft_slo_s is None:
        return []
    told = [one.goodput(ttft_slo_s) for one in figures]
    texts = [NONE if rate is None else f"{number(rate)} {percent(share)}" for rate, share in told]
    return [Column("good/s", 2, [Cell(text, "" if text != NONE else "dim") for text in texts])]


def _state(server: ServerFrame) -> Cell:
    text = server.state.value
    if server.state is State.DOWN:
        text = f"down {duration(server.silent_s)}"
    elif server.state is State.HALF:
        text = "no metrics" if server.problem.startswith("metrics") else "no health"
    return Cell(text, _STATES.get(server.state, "bold red"))


def _live(server: ServerFrame) -> Cell:
    """The releases that have the public names; versions where there is none."""
    names = []
    for one in server.served:
        if server.is_live(one):
            name = one.release or f"v{'+'.join(one.versions)}"
            names.append(name if one.llm == DEFAULT_LLM else f"{one.llm}:{name}")
    if not names and server.served:
        return Cell("?", "yellow")
    return Cell(safe(" ".join(names)) or NONE)


def _proxied(server: ServerFrame) -> Cell:
    if not server.proxied:
        return Cell(NONE, "dim")
    first = server.proxied[0]
    sessions = sum(one.sessions for one in server.proxied)
    style = "green" if first.status.startswith("UP") else "bold red" if first.status.startswith("DOWN") else "yellow"
    return Cell(safe(f"{first.status} w{first.weight} {sessions}s"), style)


def _sorted(servers: Sequence[ServerFrame], sort: str) -> list[ServerFrame]:
    keys: dict[str, Callable[[ServerFrame], float]] = {
        "tokens/s": lambda server: server.figures.tokens_per_s or 0.0,
        "TTFT": lambda server: server.figures.ttft.quantile(0.95) or 0.0,
        "KV": lambda server: server.figures.kv_share or 0.0,
    }
    return sorted(servers, key=keys[sort], reverse=True) if sort in keys else list(servers)


def server_columns(frame: Frame, servers: Sequence[ServerFrame]) -> list[Column]:
    """A row for each of `servers`, and one for all that are watched where these are several."""
    figures = [server.figures for server in servers]
    more = len(frame.servers) > 1
    all_of = [*figures, frame.total] if more else figures
    last = [Cell("", "")] if more else []
    gpus: list[Cell] = []
    for server in servers:
        uses = [gpu.use for gpu in server.gpus if gpu.use is not None]
        gpus.append(Cell(percent(sum(uses) / len(uses)) if uses else NONE, "" if uses else "dim"))
    ready = sum(server.state in (State.READY, State.UP) for server in frame.servers)
    restarts = [Cell(whole(server.restarts), "yellow" if server.restarts else "dim") for server in servers]
    return [
        Column(
            "server",
            0,
            [*(Cell(safe(server.name), "bold") for server in servers), *([Cell("all")] if more else [])],
            True,
        ),
        Column(
            "state", 0, [*map(_state, servers), *([Cell(f"{ready}/{len(frame.servers)} ready")] if more else [])], True
        ),
        Column("live", 3, [*map(_live, servers), *last], True),
        *_figure_columns(all_of, several=False),
        *_good(all_of, frame.ttft_slo_s),
        Column("GPU", 3, [*gpus, *last]),
        Column("restarts", 8, [*restarts, *last]),
        Column("HAProxy", 6, [*map(_proxied, servers), *last], True),
    ]


def release_columns(frame: Frame, releases: Sequence[ReleaseFrame]) -> list[Column]:
    """A row for each release of each LLM, over all servers."""
    figures = [one.figures for one in releases]

    def live(one: ReleaseFrame) -> Cell:
        if one.live_on is None:
            return Cell(f"?/{len(frame.servers)}", "yellow")
        return Cell(f"{one.live_on}/{len(frame.servers)}", "green" if one.live_on else "dim")

    return [
        Column("LLM", 0, [Cell(safe(one.llm), "bold") for one in releases], True),
        Column("release", 0, [Cell(safe(one.release) or NONE) for one in releases], True),
        Column("version", 9, [Cell("+".join(map(safe, one.versions))) for one in releases]),
        Column("live", 2, [live(one) for one in releases]),
        *_figure_columns(figures, several=True),
        *_good(figures, frame.ttft_slo_s),
    ]


def _table(columns: Sequence[Column], width: int) -> Table:
    shown = fitting(columns, width)
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold cyan")
    for column in shown:
        table.add_column(column.title, justify="left" if column.is_text else "right", no_wrap=True, overflow="crop")
    for cells in zip(*(column.cells for column in shown), strict=True):
        table.add_row(*(Text(cell.text, style=cell.style) for cell in cells))
    return table


def gateway_words(gateway: GatewayFrame) -> list[Cell]:
    """The gateway, figure by figure."""
    one = gateway.figures
    if one is None:
        return [Cell(f"down {duration(gateway.silent_s)}" if gateway.silent_s else "locked", "bold red")]
    failed = None if not one.requests_per_s or one.failed_per_s is None else one.failed_per_s / one.requests_per_s
    all_ready = one.servers_ready == one.servers
    return [
        Cell(f"{number(one.requests_per_s)} req/s"),
        Cell(f"{number(one.tokens_per_s)} tok/s"),
        _graded(failed, _ERRORS, f"err {percent(failed)}", strict=True),
        Cell(f"429 {number(one.refused_per_s)}/s", "yellow" if one.refused_per_s else ""),
        Cell(f"TTFT {quantiles_ms(one.ttft)} ms"),
        Cell(f"queue {quantiles_ms(one.queue)} ms"),
        Cell(f"run {whole(one.running)}"),
        Cell(f"wait {whole(one.waiting)}", "yellow" if one.waiting else ""),
        Cell(f"cache hits {percent(one.hits)}"),
        Cell(f"servers {whole(one.servers_ready)}/{one.servers}", "" if all_ready else "bold red"),
    ]


def _gateway(gateway: GatewayFrame, width: int) -> list[Text]:
    """In as many lines as it takes; none is broken within a figure."""
    lines = [Text("gateway", style="bold cyan").append(f" {gateway.address}", style="not bold default")]
    for word in gateway_words(gateway):
        if len(lines[-1]) + _GAP + len(word.text) > width:
            lines.append(Text(" " * (len("gateway ") - _GAP)))
        lines[-1].append(" " * _GAP).append(word.text, style=f"not bold {word.style or 'default'}")
    return lines


@dataclass(frozen=True)
class View:
    """A frame, to be drawn on any console. keys: what can be typed, "" for none. height: 0 for as much as it takes."""

    frame: Frame
    history: History | None = None
    keys: str = ""
    sort: str = SORTS[0]
    height: int = 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The lines of it, as wide as the console."""
        frame, width = self.frame, options.max_width
        is_ascii = options.ascii_only
        yield self._head(width)
        if self.history is not None:
            yield from self._lines(self.history, width, is_ascii)
        yield Text()
        releases = frame.releases
        servers = _sorted(frame.servers, self.sort)
        kept, dropped = self._room(servers, len(releases))
        yield _table(server_columns(frame, kept), width)
        if dropped:
            yield Text(f"... and {dropped} more; a higher terminal shows them", style="dim")
        if releases:
            yield Text()
            yield _table(release_columns(frame, releases), width)
        if frame.gateway is not None:
            yield Text()
            yield from _gateway(frame.gateway, width)
        if frame.notes:
            yield Text()
        for note in frame.notes:
            yield Text(f"! {safe(note)}", style="yellow")

    def _head(self, width: int) -> Text:
        frame = self.frame
        name = f" {safe(frame.name)}" if frame.name else ""
        head = Text(f"trireme top{name}", style="bold", no_wrap=True, overflow="crop")
        local = frame.at.astimezone()
        head.append(
            f"  {local:%H:%M:%S}  every {frame.interval_s:g} s, figures of {frame.window_s:g} s", style="not bold"
        )
        if self.sort != SORTS[0]:
            head.append(f", by {self.sort}", style="not bold")
        if self.keys and len(head) + len(self.keys) + 2 <= width:
            head.append(f"  {self.keys}", style="not bold dim")
        return head

    def _lines(self, history: History, width: int, is_ascii: bool) -> list[Text]:
        room = min(HISTORY, max(10, width - 30))
        tokens = [value for value in history.tokens_per_s if value is not None]
        ttft = [value for value in history.ttft_p95_s if value is not None]
        rows = [
            (
                "tokens/s",
                history.tokens_per_s,
                number(tokens[-1] if tokens else None),
                number(max(tokens, default=None)),
            ),
            (
                "TTFT p95 ms",
                history.ttft_p95_s,
                milliseconds(ttft[-1] if ttft else None),
                milliseconds(max(ttft, default=None)),
            ),
        ]
        lines = []
        for title, values, now, most in rows:
            line = Text(f"{title:<12}", style="bold cyan", no_wrap=True, overflow="crop")
            line.append(sparkline(list(values), room, is_ascii), style="not bold green")
            lines.append(line.append(f" {now:>6} max {most}", style="not bold default"))
        return lines

    def _room(self, servers: list[ServerFrame], releases: int) -> tuple[list[ServerFrame], int]:
        """The servers that there is room for, and how many there is none for: those that are well go first."""
        taken = 4 + (2 if self.history is not None else 0) + (releases + 2 if releases else 0)
        taken += (3 if self.frame.gateway is not None else 0) + (1 + len(self.frame.notes) if self.frame.notes else 0)
        room = max(1, self.height - taken - 1) if self.height else len(servers)
        if len(servers) <= room:
            return servers, 0
        worst = sorted(servers, key=lambda server: server.state in (State.READY, State.UP))[:room]
        return [server for server in servers if server in worst], len(servers) - room
