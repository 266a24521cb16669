"""Which version of a model answers to which name. Rules only: nothing here loads, waits or changes a version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from batchyard.endpoint.errors import DomainError, NotFoundError, UnavailableError
from batchyard.serving.batching import ModelSettings
from batchyard.serving.loading import Wanted
from batchyard.serving.model import ServedVersion
from batchyard.serving.tensors import shown

DEFAULT_ALIAS = "production"
"""Answers when a request names no version; a model without it answers with its latest."""


@dataclass(frozen=True, kw_only=True)
class WantedModel:
    """What should be served of one model."""

    name: str
    latest: int
    aliases: Mapping[str, int]
    versions: Mapping[int, Wanted]
    settings: ModelSettings = field(default_factory=ModelSettings)
    """How it is queued and batched."""


@dataclass(kw_only=True)
class ServedModel:
    """What is served of one model."""

    wanted: WantedModel
    versions: dict[int, ServedVersion] = field(default_factory=dict)
    aliases: dict[str, ServedVersion] = field(default_factory=dict)
    latest: ServedVersion | None = None
    failures: dict[int, str] = field(default_factory=dict)
    """Version -> why it is not served."""

    @property
    def default(self) -> ServedVersion | None:
        """Never the latest in place of a production version that failed: that would be another network, silently."""
        return self.aliases.get(DEFAULT_ALIAS) if DEFAULT_ALIAS in self.wanted.aliases else self.latest

    def name_versions(self, before: ServedModel) -> None:
        """Gives the aliases and `latest` to the versions that should have them.

        Where such a one could not be loaded, the name stays with the version that had it before, which then stays
        served.
        """
        for alias, number in self.wanted.aliases.items():
            if served := self.versions.get(number) or before.aliases.get(alias):
                self.aliases[alias] = served
        self.latest = self.versions.get(self.wanted.latest) or before.latest
        if self.latest is None and self.versions:
            self.latest = self.versions[max(self.versions)]
        for served in (*self.aliases.values(), self.latest):
            if served is not None:
                self.versions.setdefault(served.wanted.version, served)

    def routes(self) -> dict[tuple[str, str], ServedVersion]:
        """(model name, version) as requests write them -> who answers."""
        name = self.wanted.name
        routes = {(name, str(number)): served for number, served in self.versions.items()}
        for alias, served in self.aliases.items():
            routes[f"{name}@{alias}", ""] = routes[f"{name}@{alias}", served.version] = served
        if self.default is not None:
            routes[name, ""] = self.default
        return routes

    def as_wanted(self) -> WantedModel:
        """What to ask for to have just this again."""
        served = {alias: version.wanted.version for alias, version in self.aliases.items()}
        return WantedModel(
            name=self.wanted.name,
            latest=self.latest.wanted.version if self.latest else self.wanted.latest,
            aliases={**self.wanted.aliases, **served},
            versions={number: version.wanted for number, version in self.versions.items()},
            settings=self.wanted.settings,
        )


def why_nobody_answers(wanted: WantedModel, model: ServedModel | None, name: str, version: str) -> DomainError:
    """The error for a request to a known model that no route leads to."""
    model = model or ServedModel(wanted=wanted)
    base, _, alias = name.partition("@")
    number = _number_meant(wanted, alias, version)
    if number in model.failures:
        return UnavailableError(
            f"model {base!r} version {number} could not be loaded: {model.failures[number]}", reason="LOAD_FAILED"
        )
    if number in wanted.versions and number not in model.versions:
        return UnavailableError(f"model {base!r} version {number} is being loaded; try again", reason="LOADING")
    versions = ", ".join(str(known) for known in sorted(model.versions)) or "none"
    aliases = ", ".join(f"{base}@{known}" for known in sorted(model.aliases)) or "none"
    return NotFoundError(
        f"model {shown(name)}, version {shown(version)}: not served here; versions: {versions}; aliases: {aliases}",
        reason="VERSION_NOT_FOUND",
    )


def _number_meant(wanted: WantedModel, alias: str, version: str) -> int | None:
    if version.isascii() and version.isdigit() and len(version) < 20:
        return int(version)
    if version:
        return None
    return wanted.aliases.get(alias or DEFAULT_ALIAS, None if alias else wanted.latest)
