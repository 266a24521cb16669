"""models, model show, alias, status."""

import json
from typing import Any

import pytest

from batchyard.client.testing import FakeService
from batchyard.v1.models_pb2 import ModelVersion


def test_models_are_listed_with_aliases_certificate_and_lineage(
    run: Any, service: FakeService, digit_model: str
) -> None:
    service.versions["models/tiny/versions/2"].create_time.FromJsonString("2026-11-23T06:00:00Z")
    line = "tiny\t2\tproduction\t98.75%\t1.5e-06, 0.0001\tdigits\ttry-1\t2026-11-23T06:00:00Z\n"
    assert run("models").stdout == line


def test_a_certificate_that_did_not_pass_is_shown_as_such(run: Any, service: FakeService) -> None:
    service.add_version(ModelVersion(name="models/bad/versions/1"))
    assert "NOT PASSED" in run("models").stdout


def test_models_as_json_hold_their_versions(run: Any, digit_model: str) -> None:
    (model,) = json.loads(run("models", "--json").stdout)
    assert model["aliases"] == {"production": 2}
    assert model["versions"][0]["certificate"]["passed"] is True


@pytest.mark.parametrize("name", ["tiny", "tiny@production", "tiny/2"])
def test_a_version_is_shown_with_its_fold_report(run: Any, digit_model: str, name: str) -> None:
    lines = run("model", "show", name).stdout.splitlines()
    assert "version\t2" in lines
    assert "certificate\tpassed; largest error 1.5e-06, allowed 0.0001, 256 samples" in lines
    assert lines[-1] == "norm0\tfolded\tlinear0\t-"


def test_a_version_that_is_not_the_one_that_answers_says_which_does(
    run: Any, service: FakeService, digit_model: str
) -> None:
    said = "not the default\trequests that name no version are answered by version 2"
    assert said not in run("model", "show", "tiny/2").stdout.splitlines()
    service.add_version(ModelVersion(name="models/tiny/versions/3"))
    assert said in run("model", "show", "tiny").stdout.splitlines()


def test_a_version_is_a_number(run: Any, digit_model: str) -> None:
    result = run("model", "show", "tiny/latest")
    assert result.exit_code == 2
    assert "expected MODEL, MODEL@ALIAS or MODEL/VERSION" in result.stderr


def test_an_alias_is_set(run: Any, service: FakeService, digit_model: str) -> None:
    assert run("alias", "tiny", "candidate", "2").stdout == "candidate\t2\nproduction\t2\n"
    assert service.models["models/tiny"].aliases["candidate"] == 2


def test_an_alias_for_a_version_that_does_not_exist_fails(run: Any, digit_model: str) -> None:
    assert run("alias", "tiny", "candidate", "7").exit_code == 1
    assert run("alias", "tiny", "candidate", "0").exit_code == 2


def test_status_tells_both_planes_jobs_and_models(run: Any, service: FakeService, digit_model: str) -> None:
    run("submit", "job.yaml")
    status = json.loads(run("status", "--json").stdout)
    assert status == {
        "control": {"address": service.address, "state": "serving"},
        "inference": {"address": service.address, "state": "ready"},
        "jobs": {"QUEUED": 1},
        "models": ["tiny"],
    }
    assert f"control plane\t{service.address}  serving" in run("status").stdout


def test_status_of_a_half_dead_service_tells_what_lives_and_is_exit_code_3(run: Any) -> None:
    result = run("status", "--inference", "127.0.0.1:1", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["control"]["state"] == "serving"
    assert "the inference plane at 127.0.0.1:1 does not answer" in result.stderr
