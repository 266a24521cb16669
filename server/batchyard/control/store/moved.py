"""A data folder that was moved, or restored or copied to another place: what lies in it is found where it lies now.

Rows name artifacts and checkpoints by whole URIs, because --artifacts and --checkpoints may change between two starts.
Those in the data folder itself go where it goes: else the models of a folder that was moved would be gone, and a copy
would write to, and sweep in, the folder that it was copied from.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Column, Connection, Table, select, update

from batchyard.control.store.schema import checkpoints, versions

LOCAL = "file://"


def find_again(connection: Connection, folder: Path) -> int:
    """Has rows name what lies below `folder`, the data folder, where they name the same below another; returns how many
    did. Runs inside the caller's transaction. Digests tell, whenever one is read, that it is the same indeed.
    """
    artifacts = _follow(connection, versions, versions.c.artifact_uri, folder / "artifacts", names=1)
    return artifacts + _follow(connection, checkpoints, checkpoints.c.uri, folder / "checkpoints", names=2)


def _follow(connection: Connection, table: Table, column: Column[str], place: Path, names: int) -> int:
    """`names`: how many of them an entry's path has below `place`. What is not there keeps its row."""
    elsewhere = column.startswith(LOCAL) & ~column.startswith(f"{LOCAL}{place}/", autoescape=True)
    moved = 0
    for uri in connection.execute(select(column).where(elsewhere).distinct()).scalars().all():
        before = Path(uri.removeprefix(LOCAL))
        here = place.joinpath(*before.parts[-names:])
        if before.parents[names - 1].name == place.name and here.is_dir():
            connection.execute(update(table).where(column == uri).values({column: f"{LOCAL}{here}"}))
            moved += 1
    return moved
