"""Knows the whole run: sets its load over time, gathers what its processes report, and writes what came of it."""

import json
import sys
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import gevent

from .collector import Collector
from .errors import LoadError
from .live import Moment, moment
from .progress import Progress
from .prompts import WordCost
from .record import Record, write_csv
from .results import check_folder, default_folder, free_folder
from .run import Run
from .server_facts import ReleaseWatch, machine_facts, server_facts
from .session import measure_word_cost
from .settings import Settings
from .thresholds import read_thresholds
from .verdict import Verdict

_TICK_S = 0.5

#: For how long every request has to fail, and how many, until a look is taken whether the server is still there.
_DEAD_S, _DEAD_REQUESTS = 5.0, 3

#: At the end of a run that is long enough.
_LAST_S = 0.5


class Conductor:
    """One run, in the process that leads it."""

    def __init__(self, environment: Any, settings: Settings) -> None:
        if environment.web_ui is not None:
            settings = settings.written_to(free_folder(settings.out or default_folder()))
        elif settings.out is not None:
            check_folder(settings.out)
        self.settings = settings
        self.collector = Collector(None)
        self._environment = environment
        self._thresholds = (
            read_thresholds(Path(settings.values["thresholds"])) if settings.values["thresholds"] else None
        )
        self._began = 0.0
        self._ended_s: float | None = None
        self._partial = ""
        self._server: dict[str, Any] = {}
        self._releases = ReleaseWatch(settings)
        self._tasks: list[gevent.Greenlet] = []
        self._in_flight: dict[int, int] = {}
        self._progress = Progress(settings)
        #: How it went so far, one every _TICK_S.
        self.moments: list[Moment] = []

    def prepare(self) -> WordCost:
        """Look at the server before the begin. Raises LoadError if it cannot be measured."""
        self._server = server_facts(self.settings)
        self._releases.look()
        self.collector = Collector(self.settings.out)
        made_up = self.settings.source.lengths is not None or self.settings.trace
        return measure_word_cost(self.settings) if made_up else WordCost()

    def start(self, began: float) -> None:
        """Set the load from now on. began: in s since the epoch."""
        self._began = began
        self._tasks = [gevent.spawn(self._lead), gevent.spawn(self._watch_releases)]

    @property
    def processes(self) -> int:
        """How many send requests."""
        return max(1, getattr(self._environment.runner, "worker_count", 1))

    def now_s(self) -> float:
        """Since the begin."""
        return time.time() - self._began

    def take(self, report: dict[str, Any]) -> None:
        """Take what a process reports."""
        self.collector.take(report["rows"], report["generator"])
        self._in_flight[report["generator"]["worker"]] = report["in_flight"]

    def give_up(self, why: str) -> None:
        """End the run early."""
        if not self._partial:
            self._partial = why
            gevent.spawn(self._stop)

    def ends(self) -> None:
        """No more requests are sent from now on."""
        if self._ended_s is not None:
            return
        self._ended_s = self.now_s()
        gevent.killall([task for task in self._tasks if task is not gevent.getcurrent()], block=False)
        whole_s = self.settings.whole_s
        if not self._partial and whole_s is not None and self._ended_s < whole_s - _TICK_S:
            self._partial = f"it was stopped after {self._ended_s:.0f} of {whole_s:.0f} s"

    def _stop(self) -> None:
        runner = self._environment.runner
        if self._environment.web_ui is None:
            runner.quit()
        else:
            runner.stop()

    def _lead(self) -> None:
        """Follow the shape until the end of the run."""
        shape, whole_s = self.settings.shape, self.settings.whole_s
        follows = not self.settings.arrivals.is_open and self.settings.values["shape"] not in ("constant", "soak")
        users = None
        while whole_s is None or self.now_s() < whole_s:
            at_s = max(0.0, self.now_s())
            level = shape.level(at_s)
            wanted = max(1, round(level))
            if follows and wanted != users:
                users = wanted
                gevent.spawn(self._environment.runner.start, users, 1000.0)
            if self._last_all_failed(_DEAD_S) and self._server_is_gone():
                self.give_up(f"the server at {self.settings.address} stopped answering")
                return
            in_flight = sum(self._in_flight.values())
            self.moments.append(moment(at_s, level, in_flight, self.collector.records, self.collector.errors))
            self._progress.show(self.moments[-1])
            left_s = _TICK_S if whole_s is None else min(_TICK_S, whole_s - self.now_s())
            gevent.sleep(max(0.01, left_s))
        gevent.spawn(self._stop)

    def _last_all_failed(self, for_s: float) -> bool:
        """Whether for so long nothing was answered, because nobody was there."""
        last: list[Record] = []
        for record in reversed(self.collector.records):
            if record.end_s < self.now_s() - for_s - 5 * _TICK_S:
                break
            last.append(record)
        if len(last) < _DEAD_REQUESTS or last[0].end_s - last[-1].end_s < for_s:
            return False
        return all(record.code == "UNAVAILABLE" for record in last)

    def _server_is_gone(self) -> bool:
        try:
            server_facts(self.settings)
        except LoadError:
            return True
        return False

    def _watch_releases(self) -> None:
        while True:
            gevent.sleep(_TICK_S)
            self._releases.look()

    def finish(self) -> int:
        """Write and show what came of it; the exit status."""
        self.ends()
        if not self._partial and self._last_all_failed(_LAST_S) and self._server_is_gone():
            self._partial = f"the server at {self.settings.address} stopped answering"
        self._progress.end()
        self._releases.close()
        self.collector.close()
        run, records = self.run, self.records
        if self.settings.out is not None:
            write_csv(self.settings.out / "requests.csv", records)
            (self.settings.out / "run.json").write_text(json.dumps(run.to_json(), indent=1) + "\n", encoding="utf-8")
        verdict = Verdict.of(run, records, self._thresholds)
        verdict.write(self.settings.out)
        print(f"\n{verdict.shown(sys.stdout.isatty())}", end="", flush=True)
        if self.settings.out is not None and self._environment.web_ui is not None:
            print(f"\nReport: {self.settings.out / 'report.html'}", flush=True)
        return verdict.exit_code

    @property
    def run(self) -> Run:
        """What the run was, up to now."""
        settings = self.settings
        ended_s = self._ended_s if self._ended_s is not None else self.now_s()
        measured_s = min(ended_s, settings.whole_s or ended_s) - settings.warm_up_s
        return Run(
            settings={**settings.to_json(), "scenario": self._scenarios, "processes": self.processes},
            started=datetime.fromtimestamp(self._began, timezone.utc).isoformat(timespec="milliseconds"),
            is_open=settings.arrivals.is_open,
            warm_up_s=settings.warm_up_s,
            duration_s=max(0.001, measured_s),
            slo=settings.slo,
            levels=self._wanted(ended_s),
            server=self._server,
            machine=machine_facts(),
            generators=[self.collector.generators[key] for key in sorted(self.collector.generators)],
            partial=self._partial,
        )

    @property
    def _scenarios(self) -> str:
        return ", ".join(sorted(one.__name__ for one in self._environment.user_classes))

    def _wanted(self, end_s: float) -> list[tuple[float, float]]:
        """The corners of the shape until the end."""
        shape = self.settings.shape
        return [*(corner for corner in shape.corners if corner[0] < end_s), (end_s, shape.level(end_s))]

    @property
    def records(self) -> list[Record]:
        """All requests so far in the order in which they were to be sent, each with the release that was live then."""
        return sorted(
            (
                replace(one, release=self._releases.at(self._began + one.sent_s, one.release))
                for one in self.collector.records
            ),
            key=lambda one: one.intended_s,
        )
