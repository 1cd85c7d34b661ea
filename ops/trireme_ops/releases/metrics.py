"""What a server says of its releases and of its disk, for Prometheus, beside what the supervisor counts."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ..errors import OperatorError
from .host import ReleaseHost


class ReleaseCollector(Collector):
    """Asks `host` each time that the metrics are asked for. folder: of the disk that logs and releases are on."""

    def __init__(self, host: ReleaseHost, folder: Path) -> None:
        self._host = host
        self._folder = folder

    def describe(self) -> list[Metric]:
        """Nothing is asked before the server runs."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The families."""
        yield GaugeMetricFamily(
            "trireme_server_draining",
            "1 while balancers are told to send nothing new",
            float(self._host.draining(None)),
        )
        act = GaugeMetricFamily(
            "trireme_release_act_started_timestamp_seconds",
            "Unix time at which what is being done to the releases began, by act; 0: it is not being done",
            labels=["act"],
        )
        for name, since in self._host.acts().items():
            act.add_metric([name], since)
        yield act
        # A damaged file says nothing of releases; everything else is still said.
        try:
            live, promotion = self._host.live(), self._host.promotion()
        except OperatorError:
            live, promotion = {}, None
        info = GaugeMetricFamily(
            "trireme_release_live",
            "1 for the release behind an LLM's public names, empty without one",
            labels=["llm", "release"],
        )
        for llm, release in live.items():
            info.add_metric([llm, release or ""], 1)
        yield info
        yield GaugeMetricFamily(
            "trireme_release_promotion_open", "1 while a release is on its way", float(promotion is not None)
        )
        yield GaugeMetricFamily(
            "trireme_release_lock_held", "1 while an operator is at work on the releases", float(self._host.is_locked())
        )
        with contextlib.suppress(OSError):
            disk = shutil.disk_usage(self._folder)
            for what, value in (("size", disk.total), ("free", disk.free)):
                yield GaugeMetricFamily(
                    f"trireme_disk_{what}_bytes", f"Of the disk that logs and releases are on: {what}", value
                )
