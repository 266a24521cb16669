"""The lease on the database: one row. Every function runs inside the caller's transaction."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update

from batchyard.control.holder import Holder
from batchyard.control.store.schema import leases

NAME = "control"


@dataclass(frozen=True, kw_only=True)
class LeaseRow:
    """Who holds the database, or held it last."""

    epoch: int
    """Counts the holders: the fence."""
    renewals: int
    """Counts up while the holder lives."""
    released: bool
    """Whether the holder has given it up."""
    place: str
    """Where the holder found the database: a copy of it elsewhere is held by nobody."""
    holder: Holder


def find(connection: Connection) -> LeaseRow | None:
    """The row; None before the first holder."""
    row = connection.execute(select(leases).where(leases.c.name == NAME)).one_or_none()
    if row is None:
        return None
    holder = Holder(host=row.host, pid=row.pid, process=row.process, since=row.since)
    return LeaseRow(epoch=row.epoch, renewals=row.renewals, released=row.released, place=row.place, holder=holder)


def take(connection: Connection, holder: Holder, place: str) -> int:
    """Makes `holder` the next one, whoever was there before; returns its epoch."""
    before = find(connection)
    epoch = 1 if before is None else before.epoch + 1
    connection.execute(delete(leases).where(leases.c.name == NAME))
    values = {"name": NAME, "epoch": epoch, "renewals": 0, "released": False, "place": place}
    connection.execute(insert(leases).values(**values, **vars(holder)))
    return epoch


def holds(connection: Connection, epoch: int) -> bool:
    """Whether the holder of `epoch` is still the present one."""
    return connection.execute(select(leases.c.epoch).where(leases.c.name == NAME)).scalar() == epoch


def renew(connection: Connection, epoch: int) -> None:
    """Shows that the holder of `epoch` lives."""
    own = (leases.c.name == NAME) & (leases.c.epoch == epoch)
    connection.execute(update(leases).where(own).values(renewals=leases.c.renewals + 1))


def release(connection: Connection, epoch: int) -> None:
    """The holder of `epoch` gives the lease up."""
    own = (leases.c.name == NAME) & (leases.c.epoch == epoch)
    connection.execute(update(leases).where(own).values(released=True))
