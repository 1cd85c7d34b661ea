"""Keys and tenants as they are kept."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from ..errors import NoSuchKey
from . import audit
from .clock import month_of, now_ms
from .database import Database, changed, keys, spent, tenants
from .quota import QUOTA_NAMES, Quota
from .token import NewKey, new_key


@dataclass(frozen=True)
class Key:
    """A key without its secret. models: that it may ask; none named: all of them. Times in ms since 1970."""

    id: str
    digest: str
    tenant: str
    name: str
    models: frozenset[str]
    may_read_metrics: bool
    created_ms: int
    expires_ms: int | None
    revoked_ms: int | None
    quota: Quota

    def state(self, now_ms: float) -> str:
        """active, expired or revoked."""
        if self.revoked_ms is not None:
            return "revoked"
        return "expired" if self.expires_ms is not None and now_ms >= self.expires_ms else "active"


def _key(row: Mapping[Any, Any]) -> Key:
    quota = Quota(**{name: row[name] for name in QUOTA_NAMES})
    fields = {name: row[name] for name in Key.__dataclass_fields__ if name not in ("models", "quota")}
    return Key(**fields, models=frozenset(json.loads(row["models"])), quota=quota)


def all_keys(connection: Connection) -> list[Key]:
    """All, the oldest first."""
    rows = connection.execute(select(keys).order_by(keys.c.created_ms, keys.c.id)).mappings()
    return [_key(row) for row in rows]


def tenant_quotas(connection: Connection) -> dict[str, Quota]:
    """Of those tenants that have their own."""
    rows = connection.execute(select(tenants)).mappings()
    return {row["name"]: Quota(**{name: row[name] for name in QUOTA_NAMES}) for row in rows}


def _find(connection: Connection, key_id: str) -> Key:
    row = connection.execute(select(keys).where(keys.c.id == key_id)).mappings().one_or_none()
    if row is None:
        raise NoSuchKey(f"there is no key {key_id[:40]!r}; `trireme keys list` names them")
    return _key(row)


def create(
    database: Database,
    tenant: str,
    name: str = "",
    models: Iterable[str] = (),
    expires_ms: int | None = None,
    quota: Quota | None = None,
    may_read_metrics: bool = False,
) -> NewKey:
    """A new key of a tenant. Raises DatabaseError."""
    with database.write() as connection:
        made = _insert(connection, tenant, name, models, expires_ms, quota or Quota(), may_read_metrics)
        detail = {"id": made.id, "tenant": tenant, "name": name, "models": sorted(models), "expires_ms": expires_ms}
        audit.note(connection, "keys.create", {**detail, **_named(quota), "may_read_metrics": may_read_metrics})
        changed(connection)
    return made


def _named(quota: Quota | None) -> dict[str, int]:
    return {name: value for name, value in asdict(quota or Quota()).items() if value is not None}


def _insert(
    connection: Connection,
    tenant: str,
    name: str,
    models: Iterable[str],
    expires_ms: int | None,
    quota: Quota,
    may_read_metrics: bool,
) -> NewKey:
    while True:
        made = new_key()
        values = {
            "id": made.id,
            "digest": made.digest,
            "tenant": tenant,
            "name": name,
            "models": json.dumps(sorted(models)),
            "may_read_metrics": may_read_metrics,
            "created_ms": now_ms(),
            "expires_ms": expires_ms,
            "revoked_ms": None,
        }
        try:
            with connection.begin_nested():
                connection.execute(insert(keys).values(**values, **asdict(quota)))
        except IntegrityError:
            continue
        return made


def rotate(database: Database, key_id: str, grace_s: float) -> NewKey:
    """Another key with the same rights; the old one expires after `grace_s`, or is revoked at once where that is 0.

    Raises NoSuchKey, for one that is revoked or has expired, too; or DatabaseError.
    """
    with database.write() as connection:
        old = _find(connection, key_id)
        now = now_ms()
        if (state := old.state(now)) != "active":
            raise NoSuchKey(f"the key {key_id} is {state}; only an active one can be rotated")
        made = _insert(connection, old.tenant, old.name, old.models, old.expires_ms, old.quota, old.may_read_metrics)
        ends_ms = now + int(1000 * grace_s)
        if old.expires_ms is not None:
            ends_ms = min(ends_ms, old.expires_ms)
        # Whatever the clock says later, what was revoked stays so.
        ends = {"expires_ms": ends_ms} if grace_s else {"revoked_ms": now}
        connection.execute(update(keys).where(keys.c.id == key_id).values(**ends))
        _carry_over(connection, key_id, made.id, month_of(now / 1000))
        audit.note(connection, "keys.rotate", {"id": key_id, "new_id": made.id, **ends})
        changed(connection)
    return made


def _carry_over(connection: Connection, old_id: str, new_id: str, month: str) -> None:
    """What the old key has spent this month counts for the new one's budget."""
    condition = (spent.c.month == month) & (spent.c.kind == "key") & (spent.c.name == old_id)
    cost = connection.execute(select(spent.c.cost_nano).where(condition)).scalar()
    if cost:
        connection.execute(insert(spent).values(month=month, kind="key", name=new_id, cost_nano=cost))


def revoke(database: Database, key_id: str) -> Key:
    """No more with this one; as it was. Raises NoSuchKey or DatabaseError."""
    with database.write() as connection:
        old = _find(connection, key_id)
        now = now_ms()
        if old.revoked_ms is None:
            connection.execute(update(keys).where(keys.c.id == key_id).values(revoked_ms=now))
            audit.note(connection, "keys.revoke", {"id": key_id, "tenant": old.tenant})
            changed(connection)
    return old


def limit_key(database: Database, key_id: str, new: Mapping[str, int | None]) -> Quota:
    """Change limits of a key: those that are named; None takes one away. Raises NoSuchKey or DatabaseError."""
    with database.write() as connection:
        quota = replace(_find(connection, key_id).quota, **new)
        connection.execute(update(keys).where(keys.c.id == key_id).values(**asdict(quota)))
        audit.note(connection, "keys.limit", {"id": key_id, **new})
        changed(connection)
    return quota


def limit_tenant(database: Database, tenant: str, new: Mapping[str, int | None]) -> Quota:
    """Change limits of a tenant. Raises DatabaseError."""
    with database.write() as connection:
        quota = replace(tenant_quotas(connection).get(tenant, Quota()), **new)
        connection.execute(delete(tenants).where(tenants.c.name == tenant))
        connection.execute(insert(tenants).values(name=tenant, **asdict(quota)))
        audit.note(connection, "keys.limit", {"tenant": tenant, **new})
        changed(connection)
    return quota
