"""The dashboard's JSON: the API's own messages, and errors that say what is wrong."""

from __future__ import annotations

import dataclasses
import gzip
import math
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from google.protobuf import json_format

from batchyard.control.web.assets import FOLDER
from batchyard.endpoint.security import Security
from batchyard.training.events import Resumed, StepMetrics
from batchyard.v1 import models_pb2, training_pb2

from .conftest import SPEC, Site, Tell, Yard, begin_training, manifest, serve, story

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_job_is_the_message_that_grpc_gives(site: Site, running: Tell) -> None:
    job = await running(until=400)

    answer = await site.json(f"/api/jobs/{job.id}")

    message = json_format.ParseDict(answer, training_pb2.TrainingJob())
    assert message.name == f"trainingJobs/{job.id}"
    assert message.state == training_pb2.TrainingJob.RUNNING
    assert message.spec.data.batch_size == 60
    assert (message.progress.step, message.progress.steps) == (400, 1000)
    assert answer["spec"]["workers"]["sync_batch_norm"] == "world"


async def test_jobs_come_newest_first_in_pages(site: Site, yard: Yard) -> None:
    made = [(await yard.create(name=name)).id for name in ("one", "two", "three")]

    first = await site.json("/api/jobs?page_size=2")
    second = await site.json(f"/api/jobs?page_size=2&page_token={first['next_page_token']}")

    listed = [job["name"].removeprefix("trainingJobs/") for job in first["training_jobs"] + second["training_jobs"]]
    assert listed == made[::-1]
    assert second["next_page_token"] == ""


async def test_jobs_can_be_asked_for_by_state(site: Site, yard: Yard) -> None:
    kept = await yard.create(name="kept")
    gone = await yard.create(name="gone")
    await yard.jobs.cancel(gone.id)

    queued = await site.json("/api/jobs?states=QUEUED&states=RUNNING")

    assert [job["name"] for job in queued["training_jobs"]] == [f"trainingJobs/{kept.id}"]


def listed(answer: Any) -> list[str]:
    return [job["spec"]["name"] for job in answer["training_jobs"]]


async def test_jobs_are_found_by_words_of_their_name_owner_and_state(site: Site, yard: Yard) -> None:
    await yard.jobs.create({**SPEC, "name": "wide-resnet"}, user="ada")
    await yard.jobs.create({**SPEC, "name": "resnet"}, user="grace")
    gone = await yard.jobs.create({**SPEC, "name": "mlp"}, user="ada")
    await yard.jobs.cancel(gone.id)

    assert listed(await site.json("/api/jobs?search=RESNET")) == ["resnet", "wide-resnet"]
    assert listed(await site.json("/api/jobs?search=resnet%20ada")) == ["wide-resnet"]
    assert listed(await site.json("/api/jobs?search=cancelled")) == ["mlp"]
    assert listed(await site.json("/api/jobs?search=ada&states=CANCELLED")) == ["mlp"]
    assert listed(await site.json("/api/jobs?search=%25")) == []
    assert listed(await site.json("/api/jobs?search=_")) == []


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("sort=name&rising=true", ["far", "lost", "near", "new"]),
        ("sort=loss&rising=true", ["far", "near", "new", "lost"]),
        ("sort=loss", ["near", "far", "new", "lost"]),
        ("sort=progress", ["far", "near", "new", "lost"]),
        ("sort=accuracy", ["far", "near", "new", "lost"]),
        ("sort=samples_per_second", ["far", "near", "new", "lost"]),
        ("sort=owner&rising=true", ["lost", "far", "new", "near"]),
        ("sort=state&rising=true", ["new", "far", "near", "lost"]),
        ("sort=created&rising=true", ["near", "lost", "far", "new"]),
        ("", ["new", "far", "lost", "near"]),
    ],
)
async def test_jobs_are_sorted_and_those_without_a_value_come_last_on_every_page(
    site: Site, yard: Yard, order: str, expected: list[str]
) -> None:
    near = await yard.create(name="near")
    lost = await yard.jobs.create({**SPEC, "name": "lost"}, user="ada")
    far = await yard.jobs.create({**SPEC, "name": "far"}, user="bea")
    await yard.create(name="new")
    await begin_training(yard, near, story(1000, 100))
    await begin_training(yard, far, story(1000, 900, rate=70.0))
    await yard.jobs.cancel(lost.id)

    found, token = [], ""
    for _ in range(2):
        page = await site.json(f"/api/jobs?{order}&page_size=2&page_token={token}")
        found += listed(page)
        token = page["next_page_token"]

    assert found == expected
    assert token == ""


async def test_what_a_search_finds_is_counted_by_state(site: Site, yard: Yard) -> None:
    for name in ("wide", "wide", "narrow"):
        last = await yard.create(name=name)
    await yard.jobs.cancel(last.id)

    assert await site.json("/api/counts") == {"counts": {"QUEUED": 2, "CANCELLED": 1}}
    assert await site.json("/api/counts?search=WIDE") == {"counts": {"QUEUED": 2}}
    assert await site.json("/api/counts?search=none-such") == {"counts": {}}


async def test_a_page_token_belongs_to_its_order(site: Site, yard: Yard) -> None:
    for name in ("one", "two", "three"):
        await yard.create(name=name)
    first = await site.json("/api/jobs?page_size=2&sort=name")

    error = await site.json(f"/api/jobs?page_size=2&sort=loss&page_token={first['next_page_token']}", status=400)

    assert "page_token" in error["error"]["message"]


async def test_a_published_model_shows_its_version_certificate_and_fold_report(
    site: Site, yard: Yard, running: Tell
) -> None:
    job = await running(until=1000)
    await yard.succeed(job.id, manifest(job))

    models = await site.json("/api/models")
    model = await site.json("/api/models/mnist")
    versions = await site.json("/api/models/mnist/versions")
    version = await site.json("/api/models/mnist/versions/1")

    assert models["models"] == [model]
    assert model["aliases"] == {"production": "1"}
    assert versions["model_versions"] == [version]
    message = json_format.ParseDict(version, models_pb2.ModelVersion())
    assert message.certificate.passed
    assert [entry.status for entry in message.fold_report] == ["folded", "folded", "affine", "folded"]
    assert (await site.json(f"/api/jobs/{job.id}"))["model_version"] == "models/mnist/versions/1"


@pytest.mark.parametrize(
    ("path", "status", "reason", "says"),
    [
        ("/api/jobs/none-such", 404, "JOB_NOT_FOUND", "trainingJobs/none-such does not exist"),
        ("/api/jobs/none-such/events", 404, "JOB_NOT_FOUND", "does not exist"),
        ("/api/jobs/Not*Legal", 400, "INVALID_INPUT", "expected trainingJobs/{id}"),
        ("/api/jobs?page_size=-3", 400, "INVALID_INPUT", "'-3' given; expected a whole number"),
        ("/api/jobs?page_size=99999999999999999999", 400, "INVALID_INPUT", "expected a whole number"),
        ("/api/jobs?page_token=forged", 400, "INVALID_INPUT", "page_token: 'forged' given"),
        ("/api/jobs?states=DOZING", 400, "INVALID_INPUT", "'DOZING' given; expected some of QUEUED, STARTING"),
        ("/api/jobs?sort=colour", 400, "INVALID_INPUT", "'colour' given; expected one of created, name, owner"),
        ("/api/jobs?watch=maybe", 400, "INVALID_INPUT", "expected true or false"),
        ("/api/jobs?page_sise=3", 400, "INVALID_INPUT", "page_sise: unknown key; did you mean 'page_size'?"),
        ("/api/models/none", 404, "MODEL_NOT_FOUND", "models/none does not exist"),
        ("/api/models/none/versions", 404, "MODEL_NOT_FOUND", "models/none does not exist"),
        ("/api/models/mnist/versions/zero", 400, "INVALID_INPUT", "expected models/{model}/versions/{n}"),
        ("/api/nothing", 404, "HTTP_ERROR", "/api/nothing: Not Found"),
        ("/static/../api.py", 404, "HTTP_ERROR", "Not Found"),
        ("/static/..%2fapi.py", 404, "HTTP_ERROR", "Not Found"),
    ],
)
async def test_a_bad_request_is_told_what_is_wrong(site: Site, path: str, status: int, reason: str, says: str) -> None:
    error = (await site.json(path, status=status))["error"]

    assert (error["code"], error["reason"]) == (status, reason)
    assert says in error["message"]


async def test_bad_input_names_each_field(site: Site) -> None:
    error = (await site.json("/api/jobs?watch=maybe", status=400))["error"]

    assert error["violations"] == [{"field": "watch", "description": "'maybe' given; expected true or false"}]


async def test_an_unforeseen_error_is_logged_under_an_id_and_not_shown(
    site: Site, yard: Yard, caplog: pytest.LogCaptureFixture
) -> None:
    yard.database.close()

    error = (await site.json("/api/jobs", status=500))["error"]

    incident = re.fullmatch(r"internal error; the server's log has it as incident (\w{12})", error["message"])
    assert incident is not None
    assert incident[1] in caplog.text
    assert "shutdown" not in error["message"]


async def test_health_answers_while_the_store_does(site: Site, yard: Yard) -> None:
    assert await site.json("/healthz") == {"status": "SERVING"}

    yard.database.close()

    await site.json("/healthz", status=500)


async def test_metrics_come_in_the_format_that_prometheus_reads(site: Site, running: Tell) -> None:
    job = await running(until=200)

    async with site.session.get(site.url + "/metrics") as response:
        text = await response.text()

    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert f'batchyard_job_step{{job="{job.id}"}} 200.0' in text


async def test_every_answer_forbids_whatever_does_not_come_from_here(site: Site) -> None:
    for path in ("/", "/static/js/app.js", "/api/jobs", "/api/jobs/none-such", "/nowhere", "/metrics"):
        async with site.session.get(site.url + path) as response:
            policy = response.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'self'; "), path
            assert "unsafe" not in policy
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Cache-Control"] == (
                "no-cache" if path in ("/", "/static/js/app.js") else "no-store"
            )


async def test_assets_are_named_by_their_content_and_packed(site: Site) -> None:
    path = "/static/js/app.js"
    async with aiohttp.ClientSession(auto_decompress=False) as raw:
        async with raw.get(site.url + path, headers={"Accept-Encoding": "gzip"}) as packed:
            body = await packed.read()
        async with raw.get(site.url + path, headers={"If-None-Match": packed.headers["ETag"]}) as same:
            assert same.status == 304
    assert packed.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert gzip.decompress(body) == (FOLDER / "js/app.js").read_bytes()


async def test_with_a_token_the_page_is_open_and_what_it_shows_is_not(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("correct-horse-battery\n")
    token_file.chmod(0o600)
    async with serve(tmp_path, Security(token_file=token_file)) as site:
        for path in ("/", "/static/js/app.js", "/healthz"):
            async with site.session.get(site.url + path) as response:
                assert response.status == 200, path
        for path in ("/api/jobs", "/api/jobs?watch=true", "/metrics", "/api/models"):
            assert (await site.json(path, status=401))["error"]["reason"] == "TOKEN_REQUIRED"
        headers = {"Authorization": "Bearer correct-horse-battery"}
        async with site.session.get(site.url + "/api/jobs", headers=headers) as response:
            assert response.status == 200


async def test_the_course_of_a_loss_is_told_in_few_numbers(site: Site, yard: Yard, running: Tell) -> None:
    job, silent = await running(until=1000), await yard.create()
    point = next(event for event in story(1000, 520)[::-1] if isinstance(event, StepMetrics))
    await yard.report(job.id, Resumed(step=500), dataclasses.replace(point, loss=math.nan))

    told = (await site.json(f"/api/losses?jobs={job.id}&jobs={silent.id}&jobs=none-such"))["losses"]

    assert told.keys() == {job.id, silent.id}
    assert told[silent.id] == []
    assert 15 <= len(told[job.id]) <= 40
    assert (told[job.id][0] > 2, told[job.id][-2] < 0.3, told[job.id][-1]) == (True, True, None)
    assert "jobs" in (await site.json("/api/losses", status=400))["error"]["violations"][0]["field"]
