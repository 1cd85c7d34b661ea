"""Who asks for how much, and what it costs."""

from ..grafana import Dashboard, Panel, Query, Row, Variable

_TENANT = '{tenant=~"$tenant"}'

TENANTS = Dashboard(
    "trireme-tenants",
    "Trireme: tenants and cost",
    "Who asks for how much, what it costs by the price table, and whom quotas refuse. The ledger has the exact sums.",
    (Variable("tenant", "Tenant", "label_values(trireme_gateway_tenant_requests_total, tenant)"),),
    (
        Row(
            "Cost",
            (
                Panel(
                    "Cost by tenant",
                    "In the time that is shown, in the currency of the price table.",
                    "none",
                    (
                        Query(
                            "sum by (tenant, currency) "
                            f"(increase(trireme_gateway_tenant_cost_total{_TENANT}[$__range]))",
                            "{{tenant}} {{currency}}",
                        ),
                    ),
                    "bargauge",
                    8,
                ),
                Panel(
                    "Cost an hour",
                    "At the rate of the moment, by tenant.",
                    "none",
                    (
                        Query(
                            "3600 * sum by (tenant, currency) "
                            f"(rate(trireme_gateway_tenant_cost_total{_TENANT}[$__rate_interval]))",
                            "{{tenant}} {{currency}}",
                        ),
                    ),
                ),
                Panel(
                    "Cost an hour, by model",
                    "At the rate of the moment.",
                    "none",
                    (
                        Query(
                            "3600 * sum by (model, currency) "
                            f"(rate(trireme_gateway_tenant_cost_total{_TENANT}[$__rate_interval]))",
                            "{{model}} {{currency}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Use",
            (
                Panel(
                    "Requests",
                    "By tenant; without keys the tenant is empty.",
                    "reqps",
                    (
                        Query(
                            f"sum by (tenant) (rate(trireme_gateway_tenant_requests_total{_TENANT}[$__rate_interval]))",
                            "{{tenant}}",
                        ),
                    ),
                ),
                Panel(
                    "Tokens",
                    "As tenants were told them, by kind; cached ones are among the others.",
                    "tokens/s",
                    (
                        Query(
                            "sum by (tenant, kind) "
                            f"(rate(trireme_gateway_tenant_tokens_total{_TENANT}[$__rate_interval]))",
                            "{{tenant}} {{kind}}",
                        ),
                    ),
                ),
                Panel(
                    "Requests that were not answered",
                    "With 4xx and 5xx, by tenant.",
                    "reqps",
                    (
                        Query(
                            "sum by (tenant, status) (rate(trireme_gateway_tenant_requests_total"
                            '{tenant=~"$tenant",status=~"[45].."}[$__rate_interval]))',
                            "{{tenant}} {{status}}",
                        ),
                    ),
                ),
                Panel(
                    "Answers from the cache",
                    "Share of the answers that did not have to be computed.",
                    "percentunit",
                    (
                        Query(
                            'sum(rate(trireme_gateway_cache_total{outcome=~"hit|joined"}[$__rate_interval]))'
                            " / (sum(rate(trireme_gateway_cache_total[$__rate_interval])) > 0)",
                            "hits",
                        ),
                    ),
                ),
                Panel(
                    "Over quota",
                    "Requests that a quota refused, by code.",
                    "reqps",
                    (Query("sum by (code) (rate(trireme_gateway_over_quota_total[$__rate_interval]))", "{{code}}"),),
                ),
                Panel(
                    "Without a valid key",
                    "Requests that were answered with 401.",
                    "reqps",
                    (
                        Query(
                            "sum by (instance) (rate(trireme_gateway_unauthorized_total[$__rate_interval]))",
                            "{{instance}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "The ledger",
            (
                Panel(
                    "Rows",
                    "Rows written, and rows that wait.",
                    "none",
                    (
                        Query(
                            "sum by (instance) (rate(trireme_gateway_ledger_rows_total[$__rate_interval]))",
                            "{{instance}} a second",
                        ),
                        Query("trireme_gateway_ledger_waiting", "{{instance}} waiting"),
                    ),
                ),
                Panel(
                    "Rows lost",
                    "In the time that is shown; what these requests cost is not known.",
                    "none",
                    (
                        Query(
                            "sum by (instance) (increase(trireme_gateway_ledger_lost_total[$__range]))", "{{instance}}"
                        ),
                    ),
                    "stat",
                    8,
                    8,
                    {None: "green", 1: "red"},
                ),
                Panel(
                    "Age of keys and tenants",
                    "Since a gateway read them; every second, unless its database is lost.",
                    "s",
                    (Query("trireme_gateway_accounts_age_seconds", "{{instance}}"),),
                ),
            ),
        ),
    ),
)
