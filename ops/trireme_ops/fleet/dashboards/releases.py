"""Two releases side by side."""

from ..grafana import Dashboard, Panel, Query, Row, Variable
from .servers import INSTANCE

_ACT = 'trireme_release_act_started_timestamp_seconds{instance=~"$instance"}'


def _compared(figure: str, title: str, description: str) -> Panel:
    queries = tuple(
        Query(f'trireme_fleet:{figure}_seconds:p{q}_5m{{release=~"${side}"}}', f"p{q} {{{{release}}}}")
        for side in ("release_a", "release_b")
        for q in ("50", "95")
    )
    return Panel(title, description, "s", queries)


def _ratio(figure: str, title: str, description: str) -> Panel:
    sides = [f'max(trireme_fleet:{figure}_seconds:p50_5m{{release=~"${side}"}})' for side in ("release_b", "release_a")]
    return Panel(
        title,
        description,
        "none",
        (Query(" / ".join(sides), "B / A"),),
        "stat",
        4,
        5,
        {None: "green", 1.1: "orange", 1.5: "red"},
    )


def _sides(metric: str, legend: str) -> tuple[Query, ...]:
    return tuple(Query(f'{metric}{{release=~"${side}"}}', legend) for side in ("release_a", "release_b"))


RELEASES = Dashboard(
    "trireme-releases",
    "Trireme: release against release",
    "Two releases side by side while one goes live, is a canary, or is given copies of requests.",
    (
        Variable("release_a", "Release A", "label_values(trireme_engine_up, release)", multi=False),
        Variable("release_b", "Release B", "label_values(trireme_engine_up, release)", multi=False),
        INSTANCE,
    ),
    (
        Row(
            "What is live",
            (
                Panel(
                    "Live",
                    "The release behind each LLM's public names, server by server.",
                    "none",
                    (Query('trireme_release_live{instance=~"$instance"}'),),
                    "table",
                    8,
                    5,
                ),
                Panel(
                    "On its way",
                    "Servers where a release is neither live nor taken back, and those where an operator is at work.",
                    "none",
                    (
                        Query('sum(trireme_release_promotion_open{instance=~"$instance"})', "on its way"),
                        Query('sum(trireme_release_lock_held{instance=~"$instance"})', "operator at work"),
                    ),
                    "stat",
                    4,
                    5,
                ),
                Panel(
                    "Act under way",
                    "For how long what is being done to a release has been; 15 minutes raise an alert.",
                    "s",
                    (
                        Query(
                            f"max by (instance) ((time() - {_ACT}) * ({_ACT} > bool 0))",
                            "{{instance}}",
                        ),
                    ),
                    "stat",
                    4,
                    5,
                    {None: "green", 600: "orange", 900: "red"},
                ),
                _ratio(
                    "ttft",
                    "TTFT, B over A",
                    "Median of release B over that of A, on all servers; above 1, B is slower.",
                ),
                _ratio(
                    "tpot",
                    "TPOT, B over A",
                    "Median of release B over that of A, on all servers; above 1, B is slower.",
                ),
            ),
        ),
        Row(
            "How fast",
            (
                _compared("ttft", "Time to first token", "Of streams, as the engine model sees it, by release."),
                _compared("tpot", "Time per output token", "From the first token to the last, by release."),
                _compared(
                    "queue", "Queue", "From the arrival at the engine model until the engine works on it, by release."
                ),
            ),
        ),
        Row(
            "How much, and how well",
            (
                Panel(
                    "Requests",
                    "Those that ended, by release.",
                    "reqps",
                    _sides("trireme_fleet:requests:rate5m", "{{release}} version {{version}}"),
                ),
                Panel(
                    "Errors",
                    "Share of the requests that failed by fault of the server, by release.",
                    "percentunit",
                    _sides("trireme_fleet:request_errors:ratio_rate5m", "{{release}} version {{version}}"),
                ),
                Panel(
                    "Tokens",
                    "Token ids that the engines computed, by release.",
                    "tokens/s",
                    _sides("trireme_fleet:generated_tokens:rate5m", "{{release}} version {{version}}"),
                ),
                Panel(
                    "KV cache",
                    "Share of the cache that requests hold, by release.",
                    "percentunit",
                    _sides("trireme_fleet:kv_cache_used:ratio", "{{release}} version {{version}}"),
                ),
                Panel(
                    "Good, slow, failed",
                    "As clients were given them, by release.",
                    "reqps",
                    (
                        Query(
                            "sum by (release, outcome) (rate(trireme_gateway_slo_requests_total"
                            '{release=~"$release_a|$release_b"}[$__rate_interval]))',
                            "{{release}} {{outcome}}",
                        ),
                    ),
                ),
                Panel(
                    "Copies",
                    "Copies of requests to a release on trial, by what came of them.",
                    "reqps",
                    (
                        Query(
                            "sum by (release, outcome) (rate(trireme_gateway_shadow_requests_total[$__rate_interval]))",
                            "{{release}} {{outcome}}",
                        ),
                    ),
                ),
            ),
        ),
    ),
)
