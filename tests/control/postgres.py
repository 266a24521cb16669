"""A PostgreSQL server of our own for a test session, on a socket in a folder; each test gets a fresh database."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from batchyard.control.store.database import Database
from batchyard.control.store.schema import metadata

SHARED = "shared"


class Postgres:
    """A server that can be started again. `control` is pg_ctl on its data."""

    def __init__(self, folder: Path, control: Callable[..., None]) -> None:
        self._folder = folder
        self._control = control
        self._numbers = itertools.count(1)

    def url(self, name: str) -> str:
        return f"postgresql://postgres@/{name}?host={self._folder}"

    def emptied(self) -> str:
        """The URL of a database with our tables, all empty: the same at each call, for making one writes 7 MB."""
        names = ", ".join(table.name for table in metadata.sorted_tables)
        with psycopg.connect(self.url(SHARED), autocommit=True, options="-c lock_timeout=10s") as connection:
            connection.execute(f"TRUNCATE {names} RESTART IDENTITY".encode())
        return self.url(SHARED)

    def empty(self) -> str:
        """The URL of a new database without tables."""
        name = f"empty_{next(self._numbers)}"
        self._create(name)
        return self.url(name)

    def make_tables(self) -> None:
        self._create(SHARED)
        Database.open(self.url(SHARED)).close()

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Until the end of the block, the server runs."""
        self._control("start", "--wait")
        try:
            yield
        finally:
            self._control("stop", "--wait", "--mode=immediate")

    def restart(self) -> None:
        """Ends it at once, whoever is connected, and starts it again."""
        self._control("restart", "--wait", "--mode=immediate")

    def _create(self, name: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())


@contextmanager
def a_server() -> Iterator[Postgres]:
    """A new server, not running yet; its folder goes at the end."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda found: int(found.parent.name))
    # It refuses to run as root, and a folder of pytest's is closed to others.
    options: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        folder = Path(name)
        if options:
            shutil.chown(folder, "postgres", "postgres")

        def run(program: str, *arguments: str) -> None:
            command = [str(programs / program), *arguments, f"--pgdata={folder / 'data'}"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, **options)

        run("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale", "--no-sync")
        settings = {"listen_addresses": "", "unix_socket_directories": folder, "fsync": "off", "shared_buffers": "16MB"}
        flags = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        yield Postgres(folder, partial(run, "pg_ctl", f"--log={folder / 'log'}", f"--options={flags}"))
