"""What was last asked to be served and what was last served, on this process's own disk: enough to start alone."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

from batchyard.serving.batching import ModelSettings
from batchyard.serving.loading import Wanted, folder_of
from batchyard.serving.naming import WantedModel
from batchyard.v1 import models_pb2, serving_pb2

SCHEMA_VERSION = 1
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Names become folder names; anything else is refused."""

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """The two lists that survive a restart."""

    serving: tuple[WantedModel, ...] = ()
    """What answered last; differs from `wanted` where a version could not be loaded."""
    wanted: tuple[WantedModel, ...] = ()


class StateFile:
    """state.json in the cache folder."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._path = cache / "state.json"

    def read(self) -> State | None:
        """None: nothing was ever stored, or the file is damaged (then logged; the control plane tells again).

        Comes before anything is fetched: what an earlier process left half fetched is deleted.
        """
        for folder in (self._cache / "artifacts").glob("*/.*"):
            shutil.rmtree(folder, ignore_errors=True)
        try:
            values = json.loads(self._path.read_bytes())
            if values["schema_version"] != SCHEMA_VERSION:
                raise ValueError(f"schema_version is {values['schema_version']}, this version reads {SCHEMA_VERSION}")
            return State(
                serving=tuple(_model_from_json(model) for model in values["serving"]),
                wanted=tuple(_model_from_json(model) for model in values["wanted"]),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s cannot be used and is ignored: %s: %s", self._path, type(error).__name__, error)
            return None

    def write(self, state: State) -> None:
        """Replaces the file in one step, and deletes cached artifacts that neither list names."""
        values = {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(state)}
        self._cache.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        with partial.open("w") as file:
            json.dump(values, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)
        self._remove_unnamed(state)

    def _remove_unnamed(self, state: State) -> None:
        models = (*state.serving, *state.wanted)
        named = {folder_of(version, self._cache) for model in models for version in model.versions.values()}
        for folder in (self._cache / "artifacts").glob("*/*"):
            # A hidden one is being fetched, for a client that asked for it while this is written.
            if folder not in named and not folder.name.startswith("."):
                shutil.rmtree(folder, ignore_errors=True)


def from_control(response: models_pb2.WatchServedModelsResponse) -> tuple[WantedModel, ...]:
    """The control plane's message in the repository's terms. Raises ValueError for names that are not plain."""
    return tuple(_model_from_proto(served) for served in response.models)


def _model_from_proto(served: models_pb2.ServedModel) -> WantedModel:
    name = served.model.name.removeprefix("models/")
    versions = (_version_from_proto(name, version) for version in served.versions)
    return WantedModel(
        name=_plain(name),
        latest=served.model.latest_version,
        aliases=dict(served.model.aliases),
        versions={version.version: version for version in versions},
        settings=_settings_from_proto(served.model.serving_settings),
    )


def _settings_from_proto(asked: serving_pb2.ServingSettings) -> ModelSettings:
    values = {field.name: value for field, value in asked.ListFields()}
    if "preferred_batch_sizes" in values:
        values["preferred_batch_sizes"] = tuple(values["preferred_batch_sizes"])
    if "timeout_action" in values:
        values["timeout_action"] = asked.TimeoutAction.Name(asked.timeout_action)
    if "precision" in values:
        values["precision"] = asked.Precision.Name(asked.precision).lower()
    return ModelSettings(**values)


def _version_from_proto(model: str, version: models_pb2.ModelVersion) -> Wanted:
    return Wanted(
        model=model,
        version=int(version.name.rpartition("/")[2]),
        artifact_uri=version.artifact_uri,
        manifest_sha256=_plain(version.manifest_sha256),
    )


def _model_from_json(values: dict[str, Any]) -> WantedModel:
    versions = (Wanted(**version) for version in values["versions"].values())
    return WantedModel(
        name=_plain(values["name"]),
        latest=int(values["latest"]),
        aliases={str(alias): int(number) for alias, number in values["aliases"].items()},
        versions={version.version: version for version in versions},
        settings=_settings_from_json(values.get("settings", {})),
    )


def _settings_from_json(values: dict[str, Any]) -> ModelSettings:
    sizes = tuple(values.get("preferred_batch_sizes", ()))
    return ModelSettings(**{**values, "preferred_batch_sizes": sizes})


def _plain(name: str) -> str:
    if not PLAIN_NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be the name of a folder; expected letters, digits, '.', '_' and '-'")
    return name
