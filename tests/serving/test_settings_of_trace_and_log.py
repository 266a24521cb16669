"""TraceSetting and LogSettings by tritonclient, and what they change."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

from bench.small_artifact import SmallNetwork
from tests.serving.harness import Serving, refusal, request_for, until

PIXELS = SmallNetwork(seed=1).pixels(2)
ON = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"}


@pytest.fixture
async def traced(serving: Serving) -> Serving:
    await serving.start(trace_dir=serving.folder / "traces")
    serving.wish(serving.version(1), aliases={"production": 1})
    await serving.until_version(1)
    return serving


def traces(serving: Serving, name: str = "trace.json") -> list[dict[str, Any]]:
    """What the file holds; nothing while it is being written."""
    try:
        read: list[dict[str, Any]] = json.loads((serving.folder / "traces" / name).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return []
    return read


async def change(serving: Serving, settings: dict[str, Any], model: str = "") -> dict[str, list[str]]:
    async with triton_aio.InferenceServerClient(serving.plane.grpc_address) as client:
        response = await client.update_trace_settings(model, settings)
    return {name: list(setting.value) for name, setting in response.settings.items()}


async def test_a_traced_request_has_its_times_in_order(traced: Serving) -> None:
    settings = await change(traced, {**ON, "trace_count": "2"})
    assert settings["trace_level"] == ["TIMESTAMPS"]
    await traced.infer(PIXELS)
    await refusal(traced.stub.ModelInfer(request_for(PIXELS[:, :, :5])))
    await traced.infer(PIXELS)  # one more than asked for
    await until(lambda: len(traces(traced)) == 2, "both traces are written")
    answered, failed = traces(traced)
    assert (answered["id"], answered["model_name"], answered["model_version"]) == (1, "mnist", "1")
    assert answered["request_id"] == "the id"
    names = [mark["name"] for mark in answered["timestamps"]]
    assert names == ["REQUEST_START", "QUEUE_START", "COMPUTE_START", "COMPUTE_END", "REQUEST_END"]
    times = [mark["ns"] for mark in answered["timestamps"]]
    assert times == sorted(times)
    assert [mark["name"] for mark in failed["timestamps"]] == ["REQUEST_START", "REQUEST_END"]
    assert (await change(traced, {}))["trace_count"] == ["0"]


async def test_one_of_so_many_is_traced_into_files_of_so_many(traced: Serving) -> None:
    await change(traced, {**ON, "trace_rate": "3", "log_frequency": "2", "trace_file": "mine"})
    for _ in range(14):
        await traced.infer(PIXELS)
    await until(lambda: [len(traces(traced, f"mine.{at}")) for at in range(2)] == [2, 2], "two files of two")
    assert not traces(traced, "mine.2")
    await change(traced, {"trace_level": None})  # off again: nothing more, and nothing is lost
    await traced.infer(PIXELS)
    await traced.infer(PIXELS)
    assert (await change(traced, {}))["trace_level"] == ["OFF"]


async def test_a_models_settings_are_its_own_until_they_are_cleared(traced: Serving) -> None:
    own = await change(traced, {**ON, "trace_file": "own"}, "mnist")
    assert own["trace_level"] == ["TIMESTAMPS"]
    assert (await change(traced, {}))["trace_level"] == ["OFF"]
    await traced.infer(PIXELS)
    cleared = await change(traced, dict.fromkeys([*ON, "trace_file"]), "mnist")
    assert (cleared["trace_level"], cleared["trace_file"]) == (["OFF"], ["trace.json"])
    await until(lambda: len(traces(traced, "own")) == 1, "what was traced is written")
    with pytest.raises(triton.InferenceServerException, match="served: mnist"):
        await change(traced, {}, "other")


async def test_traces_are_written_at_the_end_too(traced: Serving) -> None:
    await change(traced, ON)
    for _ in range(3):
        await traced.infer(PIXELS)
    await traced.plane.stop()
    assert len(traces(traced)) == 3


async def test_wrong_trace_settings_are_refused_and_change_nothing(traced: Serving) -> None:
    before = await change(traced, {})
    wrong: list[dict[str, Any]] = [
        {"trace_level": ["TENSORS"]},
        {"trace_level": ["OFF", "TIMESTAMPS"]},
        *({"trace_file": name} for name in ("../outside", "/tmp/outside", "", ".hidden", "a/b")),
        {"trace_rate": "0"},
        {"trace_rate": "٣"},
        {"trace_count": "-2"},
        {"log_frequency": "x"},
        {"trace_mode": "opentelemetry"},
        {"nonsense": "1"},
    ]
    for settings in wrong:
        with pytest.raises(triton.InferenceServerException, match="expected") as caught:
            await change(traced, {**ON, **settings})
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert await change(traced, {}) == before


async def test_without_a_folder_nothing_can_be_traced(mnist: Serving) -> None:
    with pytest.raises(triton.InferenceServerException, match="--trace-dir") as caught:
        await change(mnist, ON)
    assert caught.value.status() == "StatusCode.PERMISSION_DENIED"
    assert (await change(mnist, {}))["trace_level"] == ["OFF"]


async def test_log_settings_change_what_is_logged(mnist: Serving, caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("batchyard.tests")

    def heard() -> list[str]:
        caplog.clear()
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            log.log(level, "words")
        return [record.levelname for record in caplog.records if record.name == log.name]

    caplog.set_level(logging.INFO)
    caplog.handler.setLevel(logging.NOTSET)
    async with triton_aio.InferenceServerClient(mnist.plane.grpc_address) as client:
        assert heard() == ["INFO", "WARNING", "ERROR"]
        settings = await client.update_log_settings({"log_info": False, "log_error": False}, as_json=True)
        assert settings["settings"]["log_warning"] == {"bool_param": True}
        assert heard() == ["WARNING"]
        await client.update_log_settings({"log_info": True, "log_error": None, "log_verbose_level": 1})
        assert heard() == ["DEBUG", "INFO", "WARNING", "ERROR"]
        logging.getLogger("some.library").debug("their words")
        assert "their words" not in caplog.text
        await client.update_log_settings({"log_verbose_level": 2})
        logging.getLogger("some.library").debug("their words")
        assert "their words" in caplog.text
        await client.update_log_settings({"log_verbose_level": 0, "log_format": "ISO8601"})
        log.info("words")
        assert caplog.text.rstrip().endswith("Z INFO batchyard.tests: words")
        assert caplog.text.splitlines()[-1][10] == "T"
        read = await client.get_log_settings(as_json=True)
        assert read["settings"]["log_format"] == {"string_param": "ISO8601"}


async def test_wrong_log_settings_are_refused(mnist: Serving) -> None:
    async with triton_aio.InferenceServerClient(mnist.plane.grpc_address) as client:
        for settings in ({"log_format": "xml"}, {"log_verbose_level": 3}, {"nonsense": True}):
            with pytest.raises(triton.InferenceServerException, match="expected"):
                await client.update_log_settings(settings)
        with pytest.raises(triton.InferenceServerException, match="standard error") as caught:
            await client.update_log_settings({"log_file": "/etc/passwd"})
        assert caught.value.status() == "StatusCode.PERMISSION_DENIED"
