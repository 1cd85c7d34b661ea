"""What dashboards of servers have in common."""

from ..grafana import Query, Variable

INSTANCE = Variable("instance", "Server", "label_values(trireme_server_ready, instance)")


def by_server(metric: str, legend: str = "{{instance}} {{model}} {{release}}") -> tuple[Query, ...]:
    """A metric of those servers that are chosen."""
    return (Query(f'{metric}{{instance=~"$instance"}}', legend),)
