"""Tries a release on a copy of the live traffic: loads it, copies, reports, and lets it go. No client notices."""

import time
from collections.abc import Callable
from typing import Any

from ..errors import OperatorError
from .audit import AuditLog
from .events import Event, Tell, untold
from .fleet import Fleet
from .promote import Options
from .release import UNRELEASED, Release
from .servers import controls_of, locked

_LOOK_S = 1.0


def shadow(
    fleet: Fleet,
    release: Release,
    fraction: float,
    duration_s: float,
    show_texts: bool = False,
    tell: Tell = untold,
    audit: AuditLog | None = None,
    options: Options | None = None,
    until: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Copy `fraction` of the traffic of one server to a release for a while, or `until`; Ctrl-C ends it early.

    Returns what `Shadow.report` does. Raises OperatorError where the release cannot be loaded, or is live.
    """
    options = options or Options()

    told = tell if audit is None else audit.listening("shadow", tell, release=release.name)
    told(Event("note", "start", f"{100 * fraction:g} % of the traffic for {duration_s:g} s"))

    controls = controls_of(fleet)
    if len(controls) != 1:
        raise OperatorError(f"the traffic of one server is copied; the fleet has {len(controls)}: name it by --server")
    with locked(controls, f"shadow {release.name}", told) as servers:
        (server,) = servers.there
        live = server.status()["llms"].get(release.llm, {}).get("live")
        if live == release.name:
            raise OperatorError(f"{release.name} is live")
        failed = [finding for finding in server.preflight(release) if finding["status"] == "fail"]
        if failed:
            raise OperatorError(f"{release.name} cannot be loaded: {failed[0]['check']}: {failed[0]['detail']}")
        told(Event("begin", "load", f"loading {release.name} next to {live or UNRELEASED} ...", server.name))
        try:
            server.load(release)
            told(Event("done", "load", f"loaded {release.name} next to {live or UNRELEASED}", server.name))
            server.start_shadow(release.name, fraction, show_texts)
            text = f"copying {100 * fraction:g} % of the traffic for {duration_s:g} s"
            told(Event("begin", "shadow", text, server.name))
            try:
                deadline = time.monotonic() + duration_s
                while time.monotonic() < deadline and not until():
                    time.sleep(min(_LOOK_S, max(0.0, deadline - time.monotonic())))
                    server.shadow_report()
            except KeyboardInterrupt:
                told(Event("note", "shadow", "ended early", server.name))
            report = server.stop_shadow()
            compared = report["requests"]["compared"]
            told(Event("done", "shadow", f"compared {compared} requests", server.name))
        finally:
            server.wait_until_idle()
            server.free(release.llm, release.name, options.drain_timeout_s)
            server.end("shadowed", "")
            told(Event("done", "free", f"{release.name} is freed", server.name))
    return report


def report_table(report: dict[str, Any]) -> str:
    """For a person."""
    requests, answers = report["requests"], report["answers"]
    against = report["against"] or UNRELEASED
    lines = [
        f"{report['release']} beside {against}, {100 * report['fraction']:g} % of the traffic, "
        f"{report['seconds']:.0f} s",
        f"  requests  {requests['replayed']} copied, {requests['compared']} compared, {requests['busy']} not asked as "
        f"it was busy, {sum(requests['left_out'].values())} that cannot be copied",
        f"  answers   {answers['equal']} of {answers['compared']} equal, {answers['different']} different",
    ]
    for name, title in (("ttft_s", "TTFT"), ("total_s", "total")):
        sides = report[name]
        if sides["pairs"]:
            shown = ", ".join(
                f"{rank} {1000 * sides['live'][rank]:.1f} -> {1000 * sides['shadow'][rank]:.1f} ms"
                for rank in ("p50", "p90", "p99")
            )
            lines.append(f"  {title:<8}  {shown}")
    for side, codes in report["errors"].items():
        for code, number in codes.items():
            lines.append(f"  errors    {side}: {number} times {code}")
    for example in report.get("examples", []):
        lines.append(f"  example   {example['prompt']!r}: {example['live']!r} -> {example['shadow']!r}")
    return "\n".join(lines)
