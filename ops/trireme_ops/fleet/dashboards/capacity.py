"""What servers have, and how much of it is in use."""

from ..grafana import Dashboard, Panel, Query, Row
from .servers import INSTANCE, by_server

_FULL: dict[float | None, str] = {None: "green", 0.8: "orange", 0.95: "red"}

CAPACITY = Dashboard(
    "trireme-capacity",
    "Trireme: capacity",
    "What servers have, and how much of it is in use: whether there is room for more.",
    (INSTANCE,),
    (
        Row(
            "Engines",
            (
                Panel(
                    "KV cache",
                    "Share of the cache that requests hold; above 95 % requests wait or are preempted.",
                    "percentunit",
                    by_server("trireme:kv_cache_used:ratio"),
                    thresholds=_FULL,
                ),
                Panel(
                    "Running and waiting",
                    "Requests with each engine, and those that wait for room in it.",
                    "none",
                    (
                        *by_server("trireme_requests_running", "{{instance}} {{release}} running"),
                        *by_server("trireme_requests_waiting", "{{instance}} {{release}} waiting"),
                    ),
                ),
                Panel(
                    "Tokens",
                    "Token ids that each engine computed.",
                    "tokens/s",
                    by_server("trireme:generated_tokens:rate5m"),
                ),
                Panel(
                    "Queue, p95",
                    "From a request's arrival at the engine model until the engine first works on it.",
                    "s",
                    by_server("trireme:queue_seconds:p95_5m"),
                ),
                Panel(
                    "Prompt tokens from the prefix cache",
                    "Share of the prompts' tokens that did not have to be computed.",
                    "percentunit",
                    by_server("trireme:reused_prompt_tokens:ratio_rate5m"),
                ),
                Panel(
                    "Requests a step of preprocessing",
                    "How many requests Triton's dynamic batcher joined, on average.",
                    "none",
                    (
                        Query(
                            "sum by (instance, model) (rate(nv_inference_count"
                            '{instance=~"$instance",model=~"preprocessing.*"}[$__rate_interval]))'
                            " / (sum by (instance, model) (rate(nv_inference_exec_count"
                            '{instance=~"$instance",model=~"preprocessing.*"}[$__rate_interval])) > 0)',
                            "{{instance}} {{model}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Gateways and HAProxy",
            (
                Panel(
                    "Gateways",
                    "Open connections, requests being answered, and those that wait for room on a server.",
                    "none",
                    (
                        Query("trireme_gateway_connections", "{{instance}} connections"),
                        Query("trireme_gateway_requests_running", "{{instance}} being answered"),
                        Query("trireme_gateway_requests_waiting", "{{instance}} waiting"),
                    ),
                ),
                Panel(
                    "Servers behind HAProxy",
                    "Servers of each backend that are up.",
                    "none",
                    (Query('haproxy_backend_active_servers{proxy=~"grpc|http|gateway"}', "{{proxy}}"),),
                ),
                Panel(
                    "Sessions by server",
                    "Calls under way from HAProxy to each server.",
                    "none",
                    (Query("sum by (proxy, server) (haproxy_server_current_sessions)", "{{proxy}} {{server}}"),),
                ),
            ),
        ),
        Row(
            "Machines",
            (
                Panel(
                    "CPU",
                    "Share of all cores in use, as Triton sees it.",
                    "percentunit",
                    by_server("nv_cpu_utilization", "{{instance}}"),
                ),
                Panel(
                    "Memory",
                    "Memory of the machine in use.",
                    "bytes",
                    (
                        *by_server("nv_cpu_memory_used_bytes", "{{instance}} used"),
                        *by_server("nv_cpu_memory_total_bytes", "{{instance}} all"),
                    ),
                ),
                Panel(
                    "Disk free",
                    "Share of the disk that logs and releases are on; below 5 % an alert is raised.",
                    "percentunit",
                    by_server("trireme:disk_free:ratio", "{{instance}}"),
                ),
                Panel(
                    "GPU",
                    "Share of the time in which each GPU was busy. Empty without GPUs.",
                    "percentunit",
                    by_server("trireme:gpu_utilization:ratio", "{{instance}} {{gpu_uuid}}"),
                    width=12,
                ),
                Panel(
                    "GPU memory",
                    "Share of each GPU's memory in use. Empty without GPUs.",
                    "percentunit",
                    by_server("trireme:gpu_memory_used:ratio", "{{instance}} {{gpu_uuid}}"),
                    width=12,
                    thresholds=_FULL,
                ),
            ),
        ),
    ),
)
