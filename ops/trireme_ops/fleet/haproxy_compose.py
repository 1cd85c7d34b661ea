"""HAProxy's configuration among the containers of compose.yaml.

python -m trireme_ops.fleet.haproxy_compose > docker/compose/haproxy.cfg
"""

from .haproxy_config import ProxiedGateway, ProxiedServer, render_haproxy

#: The names that the servers of either profile have in the containers' network.
SERVERS = ("server-1", "server-2")


def render_for_compose() -> str:
    """The text of docker/compose/haproxy.cfg: TLS, and every address of the container, which publishes on loopback."""
    return render_haproxy(
        [ProxiedServer(name, name) for name in SERVERS],
        "/run/haproxy/admin.sock",
        gateways=[ProxiedGateway("gateway", "gateway")],
        bind="*",
        grpc_port=9001,
        http_port=9000,
        openai_port=8443,
        metrics_port=8405,
        metrics_bind="*",
        tls_certificate="/run/secrets/edge.pem",
        # Docker's own.
        resolver="127.0.0.11:53",
    )


if __name__ == "__main__":
    print(render_for_compose(), end="")
