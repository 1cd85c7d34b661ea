"""What the dashboards in docker/grafana/dashboards show.

python -m trireme_ops.fleet.dashboards    writes them anew
"""

import json

from ..grafana import Dashboard
from .capacity import CAPACITY
from .overview import OVERVIEW
from .releases import RELEASES
from .tenants import TENANTS

#: By the name of their file.
DASHBOARDS = {"overview": OVERVIEW, "releases": RELEASES, "capacity": CAPACITY, "tenants": TENANTS}


def text_of(dashboard: Dashboard) -> str:
    """The text of its file."""
    return json.dumps(dashboard.to_json(), indent=2, ensure_ascii=False) + "\n"
