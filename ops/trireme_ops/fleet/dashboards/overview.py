"""What clients are given: how much, how fast, and whether it is what they were promised."""

from ..grafana import Dashboard, Panel, Query, Row, Variable
from .servers import INSTANCE

_QUANTILES = ("50", "95", "99")
_MODEL = Variable("model", "Model", "label_values(trireme_gateway_slo_requests_total, model)")
_GOOD: dict[float | None, str] = {None: "red", 0.9: "orange", 0.95: "green"}


def _of_clients(figure: str) -> tuple[Query, ...]:
    by_model = "" if figure == "queue" else '{model=~"$model"}'
    legend = "p{}" if figure == "queue" else "p{} {{{{model}}}}"
    return tuple(Query(f"trireme_gateway:{figure}_seconds:p{q}_5m{by_model}", legend.format(q)) for q in _QUANTILES)


OVERVIEW = Dashboard(
    "trireme-overview",
    "Trireme: overview",
    "What clients are given: how much, how fast, and whether it is what they were promised.",
    (_MODEL, INSTANCE),
    (
        Row(
            "Now",
            (
                Panel(
                    "Servers ready",
                    "Servers that take requests, of those that are asked.",
                    "none",
                    (Query("sum(trireme_server_ready)", "ready"), Query('count(up{job="supervisor"})', "all")),
                    "stat",
                    4,
                    5,
                ),
                Panel(
                    "Alerts",
                    "Alerts that fire; Prometheus' page Alerts names them, docs/monitoring.md says what to do.",
                    "none",
                    (Query('count(ALERTS{alertstate="firing"}) or vector(0)', "firing"),),
                    "stat",
                    4,
                    5,
                    {None: "green", 1: "red"},
                ),
                Panel(
                    "Goodput",
                    "Share of the requests of the last 5 minutes that were answered within the objectives of [slo].",
                    "percentunit",
                    (Query('trireme_gateway:goodput:ratio_rate5m{model=~"$model"}', "{{model}}"),),
                    "stat",
                    4,
                    5,
                    _GOOD,
                ),
                Panel(
                    "Budget of failures left",
                    "Of the failures that three days may have; below 0 the objective is missed.",
                    "percentunit",
                    (Query('trireme_slo:failed:budget_left_ratio_3d{model=~"$model"}', "{{model}}"),),
                    "stat",
                    4,
                    5,
                    {None: "red", 0: "green"},
                ),
                Panel(
                    "Budget of slow answers left",
                    "Of the slow answers that three days may have; below 0 the objective is missed.",
                    "percentunit",
                    (Query('trireme_slo:slow:budget_left_ratio_3d{model=~"$model"}', "{{model}}"),),
                    "stat",
                    4,
                    5,
                    {None: "red", 0: "green"},
                ),
                Panel(
                    "In flight",
                    "Requests that the gateways are answering, and those of them that wait for room on a server.",
                    "none",
                    (
                        Query("sum(trireme_gateway_requests_running)", "being answered"),
                        Query("sum(trireme_gateway_requests_waiting)", "waiting"),
                    ),
                    "stat",
                    4,
                    5,
                ),
            ),
        ),
        Row(
            "How much",
            (
                Panel(
                    "Requests",
                    "By the HTTP status that they were answered with; 499: the client left.",
                    "reqps",
                    (
                        Query(
                            'sum by (status) (rate(trireme_gateway_requests_total{model=~"$model"}[$__rate_interval]))',
                            "{{status}}",
                        ),
                    ),
                ),
                Panel(
                    "Tokens",
                    "Of prompts and of answers that servers have computed.",
                    "tokens/s",
                    (
                        Query('trireme_gateway:tokens:rate5m{model=~"$model"}', "{{kind}} {{model}}"),
                        Query("sum(trireme_fleet:generated_tokens:rate5m)", "engines"),
                    ),
                ),
                Panel(
                    "Goodput and the rest",
                    "Requests that kept the objectives, were slow, or failed.",
                    "reqps",
                    (
                        Query(
                            "sum by (outcome) "
                            '(rate(trireme_gateway_slo_requests_total{model=~"$model"}[$__rate_interval]))',
                            "{{outcome}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "How fast",
            (
                Panel(
                    "Time to first token",
                    "Of streams, from a request's arrival at a gateway until its first pieces come.",
                    "s",
                    _of_clients("ttft"),
                ),
                Panel(
                    "Time per output token",
                    "Of streams, from the first pieces to the end, for each further token.",
                    "s",
                    _of_clients("tpot"),
                ),
                Panel(
                    "Queue", "How long requests waited in a gateway for room on a server.", "s", _of_clients("queue")
                ),
            ),
        ),
        Row(
            "What goes wrong",
            (
                Panel(
                    "Errors",
                    "Share of the requests that were answered with 5xx.",
                    "percentunit",
                    (Query('trireme_gateway:request_errors:ratio_rate5m{model=~"$model"}', "{{model}}"),),
                ),
                Panel(
                    "Burn rates",
                    "How many times faster than they may the budgets are used up. 14.4 for an hour calls somebody.",
                    "none",
                    (
                        Query(
                            'trireme_slo:failed:ratio_rate5m{model=~"$model"} / scalar(trireme_slo:failed:budget)',
                            "failures, 5m",
                        ),
                        Query(
                            'trireme_slo:failed:ratio_rate1h{model=~"$model"} / scalar(trireme_slo:failed:budget)',
                            "failures, 1h",
                        ),
                        Query(
                            'trireme_slo:slow:ratio_rate5m{model=~"$model"} / scalar(trireme_slo:slow:budget)',
                            "slow, 5m",
                        ),
                        Query(
                            'trireme_slo:slow:ratio_rate1h{model=~"$model"} / scalar(trireme_slo:slow:budget)',
                            "slow, 1h",
                        ),
                    ),
                ),
                Panel(
                    "Restarts",
                    "Times that a server was started again in the last quarter of an hour, by what had died.",
                    "none",
                    (
                        Query(
                            "sum by (instance, cause) "
                            '(increase(trireme_server_restarts_total{instance=~"$instance"}[15m]))',
                            "{{instance}} {{cause}}",
                        ),
                    ),
                ),
            ),
        ),
    ),
)
