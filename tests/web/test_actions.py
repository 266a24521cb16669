"""Cancelling, pausing and resuming over HTTP: as over gRPC, and never at another page's wish."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchyard.control.states import State
from batchyard.endpoint.security import Security

from .conftest import Site, Tell, Yard, serve

pytestmark = pytest.mark.asyncio(loop_scope="module")

OWN = {"Batchyard-Request": "1"}
TOKEN = "correct-horse-battery"


async def ask(site: Site, path: str, headers: dict[str, str], status: int = 200, method: str = "POST") -> Any:
    async with site.session.request(method, site.url + path, headers=headers) as response:
        assert response.status == status, await response.text()
        return await response.json()


@pytest.mark.parametrize(
    ("verbs", "queued", "active"),
    [
        (["cancel"], "CANCELLED", "CANCELLING"),
        (["pause"], "PAUSED", "PAUSING"),
        (["cancel", "cancel"], "CANCELLED", "CANCELLING"),
        (["pause", "cancel"], "CANCELLED", "CANCELLING"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else value,
)
async def test_a_job_does_as_it_is_asked(
    site: Site, yard: Yard, running: Tell, verbs: list[str], queued: str, active: str
) -> None:
    for job, state in ((await yard.create(), queued), (await running(until=20), active)):
        for verb in verbs:
            answer = await ask(site, f"/api/jobs/{job.id}/{verb}", OWN)

        assert (answer["name"], answer["state"]) == (f"trainingJobs/{job.id}", state)
        assert (await yard.jobs.get(job.id)).state == state


async def test_a_paused_job_waits_again_once_it_is_resumed(site: Site, yard: Yard) -> None:
    job = await yard.create()
    await yard.jobs.pause(job.id)

    assert (await ask(site, f"/api/jobs/{job.id}/resume", OWN))["state"] == "QUEUED"


async def test_a_rerun_is_a_new_job_of_the_same_spec_once_for_one_request_id(site: Site, yard: Yard) -> None:
    first = await yard.create(seed=3)
    path = f"/api/jobs/{first.id}/rerun?request_id=7d1f8c1e-52f5-4a39-9be5-0d9f2bb1c111"

    again, retried = await ask(site, path, OWN), await ask(site, path, OWN)

    assert again == retried
    assert again["name"] != f"trainingJobs/{first.id}"
    assert (await yard.jobs.get(again["name"].removeprefix("trainingJobs/"))).spec == first.spec
    assert (await ask(site, f"/api/jobs/{first.id}/rerun?request_id=x", OWN, 400))["error"]["reason"] == "INVALID_INPUT"


async def test_tags_and_a_note_are_written_and_a_rerun_keeps_the_tags(site: Site, yard: Yard) -> None:
    job = await yard.create()
    path = f"{site.url}/api/jobs/{job.id}/annotate"
    body = {"add_tags": ["b", "a"], "remove_tags": ["c"], "note": "tried"}
    async with site.session.post(path, headers=OWN, json=body) as response:
        answer = await response.json()
    again = await ask(site, f"/api/jobs/{job.id}/rerun", OWN)

    assert (response.status, answer["tags"], answer["note"]) == (200, ["a", "b"], "tried")
    assert (again["tags"], again["note"]) == (["a", "b"], "")
    for wrong in ('{"tags": ["a"]}', '{"note": 3}', "tags=a"):
        async with site.session.post(path, headers=OWN, data=wrong) as response:
            error = (await response.json())["error"]
        assert response.status == 400
        assert "body: expected an AnnotateTrainingJobRequest as JSON" in error["message"]


async def test_what_a_state_does_not_allow_is_refused_with_the_reason(site: Site, yard: Yard, running: Tell) -> None:
    pausing, done = await running(until=20), await running(until=1000)
    await yard.jobs.pause(pausing.id)
    await yard.succeed(done.id)

    early = (await ask(site, f"/api/jobs/{pausing.id}/resume", OWN, 409))["error"]
    late = [(await ask(site, f"/api/jobs/{done.id}/{v}", OWN, 409))["error"] for v in ("cancel", "pause", "resume")]

    assert early["reason"] == "JOB_PAUSING"
    assert "wait until it is PAUSED" in early["message"]
    assert [error["reason"] for error in late] == ["JOB_ENDED"] * 3
    assert "SUCCEEDED: a job that has ended cannot be cancelled" in late[0]["message"]


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/api/jobs/none-such/cancel", 404, "JOB_NOT_FOUND"),
        ("/api/jobs/Not*Legal/cancel", 400, "INVALID_INPUT"),
        ("/api/jobs/none-such/cancel?force=true", 400, "INVALID_INPUT"),
        ("/api/jobs/none-such/delete", 404, "HTTP_ERROR"),
        ("/api/jobs", 405, "HTTP_ERROR"),
    ],
)
async def test_a_bad_request_is_told_what_is_wrong(site: Site, path: str, status: int, reason: str) -> None:
    assert (await ask(site, path, OWN, status))["error"]["reason"] == reason


async def test_looking_changes_nothing(site: Site, yard: Yard) -> None:
    job = await yard.create()

    error = (await ask(site, f"/api/jobs/{job.id}/cancel", OWN, 405, "GET"))["error"]

    assert "GET" in error["message"]
    assert (await yard.jobs.get(job.id)).state == State.QUEUED


OTHERS = {
    "a form elsewhere, which cannot set headers": ({}, "HEADER_REQUIRED", "add 'Batchyard-Request: 1'"),
    "another page": ({**OWN, "Origin": "https://evil.example"}, "OTHER_ORIGIN", "https://evil.example"),
    "another service of this machine": ({**OWN, "Origin": "http://127.0.0.1:1"}, "OTHER_ORIGIN", "127.0.0.1:1"),
    "a page without an origin": ({**OWN, "Origin": "null"}, "OTHER_ORIGIN", "null"),
    "a name that was pointed here": (
        {**OWN, "Host": "evil.example:8080", "Origin": "http://evil.example:8080"}, "HOST_NOT_LOCAL", "localhost",
    ),
    "a name that begins like an address": ({**OWN, "Host": "127.0.0.1.evil.example"}, "HOST_NOT_LOCAL", "localhost"),
}  # fmt: skip


@pytest.mark.parametrize("insecure", [False, True], ids=["loopback", "insecure"])
@pytest.mark.parametrize(("headers", "reason", "says"), OTHERS.values(), ids=OTHERS)
async def test_without_a_token_other_pages_can_ask_for_nothing(
    tmp_path: Path, headers: dict[str, str], reason: str, says: str, insecure: bool
) -> None:
    async with serve(tmp_path, Security(insecure=insecure)) as site:
        job = await site.yard.create()

        error = (await ask(site, f"/api/jobs/{job.id}/cancel", headers, 403))["error"]

        assert (error["code"], error["reason"]) == (403, reason)
        assert says in error["message"]
        assert (await site.yard.jobs.get(job.id)).state == State.QUEUED


async def test_no_other_origin_is_granted_a_preflight(site: Site) -> None:
    wish = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "batchyard-request"}  # fmt: skip
    async with site.session.options(site.url + "/api/jobs/some-job/cancel", headers=wish) as response:
        assert response.status == 405
        assert not [name for name in response.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1", "[::1]:8080", "[::1]", "10.1.2.3:8080"])
async def test_addresses_and_localhost_are_this_host(tmp_path: Path, host: str) -> None:
    async with serve(tmp_path, Security(insecure=True)) as site:
        job = await site.yard.create()

        answer = await ask(site, f"/api/jobs/{job.id}/cancel", {**OWN, "Host": host, "Origin": f"http://{host}"})

        assert answer["state"] == "CANCELLED"


async def test_with_a_token_only_its_bearer_changes_anything(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(f"{TOKEN}\n")
    token_file.chmod(0o600)
    async with serve(tmp_path, Security(token_file=token_file)) as site:
        job = await site.yard.create()
        path = f"/api/jobs/{job.id}/cancel"

        for refused in (OWN, {**OWN, "Authorization": "Bearer wrong-horse-battery"}):
            assert (await ask(site, path, refused, 401))["error"]["reason"] == "TOKEN_REQUIRED"
        assert (await site.yard.jobs.get(job.id)).state == State.QUEUED

        answer = await ask(site, path, {"Host": "yard.example", "Authorization": f"Bearer {TOKEN}"})
        assert answer["state"] == "CANCELLED"
