"""ModelService, over gRPC."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from batchyard.training.events import Ended
from batchyard.v1 import models_pb2, serving_pb2
from tests.control.harness import PATIENCE, Service, artifact, publishing, refused


async def publish(service: Service, model: str, **changes: Any) -> str:
    job = await service.submit(**publishing(model, **changes))
    attempt = await service.until_started(job)
    service.cluster.report(job, artifact(attempt), Ended(outcome="succeeded"))
    await service.until_state(job, "SUCCEEDED")
    return job


async def set_alias(service: Service, model: str, alias: str, version: int) -> models_pb2.Model:
    request = models_pb2.SetAliasRequest(model=f"models/{model}", alias=alias, version=version)
    found = await service.models.SetAlias(request)
    assert isinstance(found, models_pb2.Model)
    return found


async def get_version(service: Service, name: str) -> models_pb2.ModelVersion:
    found = await service.models.GetModelVersion(models_pb2.GetModelVersionRequest(name=name))
    assert isinstance(found, models_pb2.ModelVersion)
    return found


async def test_a_version_tells_where_it_came_from_and_what_proves_it(service: Service) -> None:
    job = await publish(service, "digits")
    version = await get_version(service, "models/digits/versions/1")
    assert version.name == "models/digits/versions/1"
    assert version.training_job == f"trainingJobs/{job}"
    assert version.artifact_uri.endswith(f"/artifacts/{job}-1")
    assert version.architecture == "mlp"
    assert version.accuracy_unfolded == 0.96
    assert list(version.inputs[0].shape) == [-1, 1, 8, 8]
    assert list(version.classes) == ["zero", "one"]
    assert (version.fold_report[0].status, version.fold_report[0].into) == ("folded", "linear1")
    assert version.certificate.passed
    assert version.certificate.bound == 1e-5
    assert dict(version.libraries) == {"torch": "2.13.0"}


async def test_versions_are_numbered_for_each_model(service: Service) -> None:
    for model in ("digits", "other", "digits"):
        await publish(service, model)
    models = (await service.models.ListModels(models_pb2.ListModelsRequest())).models
    assert [(model.name, model.latest_version) for model in models] == [("models/digits", 2), ("models/other", 1)]


async def test_versions_are_listed_newest_first_page_by_page(service: Service) -> None:
    for _ in range(3):
        await publish(service, "digits")
    names, token = [], ""
    for _ in range(2):
        request = models_pb2.ListModelVersionsRequest(parent="models/digits", page_size=2, page_token=token)
        response = await service.models.ListModelVersions(request)
        names += [version.name for version in response.model_versions]
        token = response.next_page_token
    assert names == [f"models/digits/versions/{n}" for n in (3, 2, 1)]
    assert token == ""


async def test_models_are_listed_page_by_page(service: Service) -> None:
    for model in ("b", "a", "c"):
        await publish(service, model)
    first = await service.models.ListModels(models_pb2.ListModelsRequest(page_size=2))
    request = models_pb2.ListModelsRequest(page_size=2, page_token=first.next_page_token)
    second = await service.models.ListModels(request)
    assert [model.name for page in (first, second) for model in page.models] == ["models/a", "models/b", "models/c"]


async def test_an_alias_moves_and_names_its_version(service: Service) -> None:
    await publish(service, "digits", alias="production")
    await publish(service, "digits")
    assert (await get_version(service, "models/digits@production")).name == "models/digits/versions/1"
    assert dict((await set_alias(service, "digits", "production", 2)).aliases) == {"production": 2}
    assert (await get_version(service, "models/digits@production")).name == "models/digits/versions/2"


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("models/other/versions/1", "MODEL_NOT_FOUND", "models/other does not exist"),
        ("models/digits/versions/9", "VERSION_NOT_FOUND", "the newest version is 1"),
        ("models/digits@nobody", "ALIAS_NOT_FOUND", "aliases: production"),
    ],
)
async def test_what_does_not_exist_is_not_found(service: Service, name: str, reason: str, words: str) -> None:
    await publish(service, "digits", alias="production")
    async with refused() as found:
        await get_version(service, name)
    assert (found[0].code, found[0].reason) == (grpc.StatusCode.NOT_FOUND, reason)
    assert words in found[0].message


@pytest.mark.parametrize(
    "name", ["models/digits", "models/digits/versions/0", "models/digits/versions/x", "models/A@b"]
)
async def test_a_version_name_that_is_none_is_refused(service: Service, name: str) -> None:
    async with refused() as found:
        await get_version(service, name)
    assert list(found[0].fields) == ["name"]


async def test_the_versions_of_no_model_are_not_an_empty_list(service: Service) -> None:
    async with refused() as found:
        await service.models.ListModelVersions(models_pb2.ListModelVersionsRequest(parent="models/other"))
    assert found[0].reason == "MODEL_NOT_FOUND"


async def test_an_alias_for_what_is_not_there_changes_nothing(service: Service) -> None:
    await publish(service, "digits")
    async with refused() as found:
        await set_alias(service, "digits", "production", 2)
    assert found[0].reason == "VERSION_NOT_FOUND"
    async with refused() as found:
        await set_alias(service, "digits", "Production!", 0)
    assert set(found[0].fields) == {"alias", "version"}
    model = await service.models.GetModel(models_pb2.GetModelRequest(name="models/digits"))
    assert dict(model.aliases) == {}


def served(response: models_pb2.WatchServedModelsResponse) -> dict[str, list[str]]:
    return {one.model.name: [version.name.rpartition("/")[2] for version in one.versions] for one in response.models}


async def test_an_inference_plane_hears_what_to_serve_now_and_after_each_change(service: Service) -> None:
    watch = service.models.WatchServedModels(models_pb2.WatchServedModelsRequest())
    async with asyncio.timeout(PATIENCE):
        assert served(await watch.read()) == {}
        await publish(service, "digits", alias="production")
        assert served(await watch.read()) == {"models/digits": ["1"]}
        await publish(service, "digits")
        assert served(await watch.read()) == {"models/digits": ["1", "2"]}
        await publish(service, "digits")
        assert served(await watch.read()) == {"models/digits": ["1", "3"]}  # 2 has no name and is not the newest
        await set_alias(service, "digits", "production", 3)
        assert served(await watch.read()) == {"models/digits": ["3"]}
    watch.cancel()


async def test_an_alias_that_is_taken_away_is_gone_and_its_version_is_not(service: Service) -> None:
    await publish(service, "digits", alias="production")
    await publish(service, "digits", alias="shadow")
    request = models_pb2.DeleteAliasRequest(model="models/digits", alias="shadow")
    assert dict((await service.models.DeleteAlias(request)).aliases) == {"production": 1}
    assert (await get_version(service, "models/digits/versions/2")).name == "models/digits/versions/2"
    async with refused() as found:
        await service.models.DeleteAlias(request)
    assert (found[0].code, found[0].reason) == (grpc.StatusCode.NOT_FOUND, "ALIAS_NOT_FOUND")
    assert "aliases: production" in found[0].message


async def test_an_alias_set_to_where_it_points_already_tells_nobody(service: Service) -> None:
    await publish(service, "digits", alias="production")
    watch = service.models.WatchServedModels(models_pb2.WatchServedModelsRequest())
    async with asyncio.timeout(PATIENCE):
        await watch.read()
        await set_alias(service, "digits", "production", 1)
        await set_alias(service, "digits", "canary", 1)
        assert dict((await watch.read()).models[0].model.aliases) == {"production": 1, "canary": 1}
    watch.cancel()


async def update(service: Service, mask: list[str], **settings: Any) -> models_pb2.Model:
    model = models_pb2.Model(name="models/digits", serving_settings=serving_pb2.ServingSettings(**settings))
    request = models_pb2.UpdateModelRequest(model=model)
    request.update_mask.paths.extend(mask)
    found = await service.models.UpdateModel(request)
    assert isinstance(found, models_pb2.Model)
    return found


async def test_how_a_model_is_served_changes_field_by_field_and_inference_planes_hear_it(service: Service) -> None:
    await publish(service, "digits", alias="production")
    watch = service.models.WatchServedModels(models_pb2.WatchServedModelsRequest())
    async with asyncio.timeout(PATIENCE):
        assert not (await watch.read()).models[0].model.HasField("serving_settings")
        await update(service, [], max_batch_size=64, preferred_batch_sizes=[8, 64], timeout_action="DELAY")
        heard = (await watch.read()).models[0].model.serving_settings
    assert (heard.max_batch_size, list(heard.preferred_batch_sizes)) == (64, [8, 64])
    path = "serving_settings.max_batch_size"
    assert not (await update(service, [path], priority_levels=3)).serving_settings.HasField("max_batch_size")
    stored = await service.models.GetModel(models_pb2.GetModelRequest(name="models/digits"))
    assert list(stored.serving_settings.preferred_batch_sizes) == [8, 64]
    assert not stored.serving_settings.HasField("priority_levels")  # the mask did not name it
    assert not (await update(service, ["serving_settings"])).HasField("serving_settings")
    watch.cancel()


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"max_batch_size": 0}, "max_batch_size"),
        ({"max_queue_delay_microseconds": -1}, "max_queue_delay_microseconds"),
        ({"preferred_batch_sizes": [8, 4]}, "preferred_batch_sizes"),
        ({"preferred_batch_sizes": [8], "max_batch_size": 4}, "preferred_batch_sizes"),
        ({"priority_levels": 2, "default_priority_level": 3}, "default_priority_level"),
        ({"timeout_action": 7}, "timeout_action"),
        ({"precision": 7}, "precision"),
        ({"shadow_share": 1.5}, "shadow_share"),
        ({"shadow_share": float("nan")}, "shadow_share"),
    ],
)
async def test_settings_that_cannot_be_are_refused_by_name(
    service: Service, settings: dict[str, Any], field: str
) -> None:
    await publish(service, "digits")
    async with refused() as found:
        await update(service, [], **settings)
    assert list(found[0].fields) == [f"serving_settings.{field}"]
    async with refused() as found:
        await update(service, ["aliases"])
    assert list(found[0].fields) == ["update_mask"]
