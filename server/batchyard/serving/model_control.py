"""Which models clients have unloaded from this inference plane, in spite of what the control plane wants served.

The control plane decides what is served; a client's unload is an exception that this process alone keeps: the model is
drained and stays away, whatever new versions the control plane wants, until a client loads it again or the process
starts anew. Other inference planes and the control plane's registry know nothing of it. A client cannot load what the
control plane does not want served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from batchyard.endpoint.errors import NotFoundError, UnavailableError
from batchyard.serving.naming import WantedModel
from batchyard.serving.repository import Repository
from batchyard.serving.shown import shown

State = Literal["READY", "UNAVAILABLE", "LOADING", "UNLOADING"]
UNLOADED = "unloaded by a client; RepositoryModelLoad brings it back"


@dataclass(frozen=True, kw_only=True)
class VersionState:
    """One line of the index."""

    model: str
    version: int
    state: State
    reason: str = ""


class ModelControl:
    """Stands between what the control plane wants and the repository. Belongs to one event loop."""

    def __init__(self, repository: Repository, on_change: Callable[[], Awaitable[None]]) -> None:
        """`on_change` is awaited after each change of what is served."""
        self._repository = repository
        self._on_change = on_change
        self._wanted: dict[str, WantedModel] = {}
        self._withheld: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def apply(self, wanted: Sequence[WantedModel]) -> None:
        """Serves what is wanted, but for what clients have unloaded."""
        self._wanted = {model.name: model for model in wanted}
        withheld = frozenset(self._withheld & self._wanted.keys())
        await self._repository.apply([model for model in wanted if model.name not in withheld], withheld)
        await self._on_change()

    async def load(self, name: str) -> None:
        """Brings a model back, or tries again what could not be loaded; returns once it answers.

        Raises NotFoundError for one that the control plane does not want served, UnavailableError for one that cannot
        be loaded.
        """
        self._check_wanted(name)
        self._withheld.discard(name)
        await self._apply_again()
        why = [why for (model, _), why in self._repository.failures.items() if model == name]
        if why:
            raise UnavailableError(f"model {name!r} could not be loaded: {why[0]}", reason="LOAD_FAILED")

    async def unload(self, name: str) -> None:
        """Takes a model away from this plane; returns once nobody is sent to it. Raises NotFoundError."""
        self._check_wanted(name)
        self._withheld.add(name)
        await self._apply_again()

    def index(self) -> Iterator[VersionState]:
        """Every version that is wanted, served, or on its way out, by name and number."""
        lines: dict[tuple[str, int], VersionState] = {}
        for name, number in self._repository.closing:
            lines[name, number] = VersionState(model=name, version=number, state="UNLOADING")
        for model in self._wanted.values():
            lines |= {(model.name, number): self._wanted_line(model.name, number) for number in model.versions}
        for served in self._repository.served_versions():
            name, number = served.name, served.wanted.version
            lines[name, number] = VersionState(model=name, version=number, state="READY")
        return (lines[key] for key in sorted(lines))

    def _wanted_line(self, name: str, number: int) -> VersionState:
        """Of a version that should be served and, unless a later line says so, is not."""
        if name in self._withheld:
            return VersionState(model=name, version=number, state="UNAVAILABLE", reason=UNLOADED)
        why = self._repository.failures.get((name, number))
        if why is not None:
            return VersionState(model=name, version=number, state="UNAVAILABLE", reason=why)
        return VersionState(model=name, version=number, state="LOADING")

    async def _apply_again(self) -> None:
        """As a task of its own: a caller who leaves must not stop a change half way."""
        task = asyncio.get_running_loop().create_task(self.apply(list(self._wanted.values())))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    def _check_wanted(self, name: str) -> None:
        if name in self._wanted:
            return
        known = ", ".join(sorted(self._wanted)[:10]) or "none"
        raise NotFoundError(
            f"the control plane wants no model {shown(name)} served; it wants: {known}", reason="MODEL_NOT_FOUND"
        )
