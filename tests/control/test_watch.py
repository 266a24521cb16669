"""WatchTrainingJob, over gRPC."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format

from batchyard.cluster.fake_executor import FakeExecutor
from batchyard.training.events import Ended, Evaluation, Layer, LayerStatistics, LogLine, PhaseChange
from batchyard.v1 import training_pb2
from tests.control.harness import PATIENCE, Service, a_step, control_plane, kinds, refusal, refused, until

STORY = (
    PhaseChange(phase="loading"),
    LogLine(level="INFO", text="1,438 training samples", rank=0),
    PhaseChange(phase="training"),
    a_step(1),
    LayerStatistics(step=1, layers=(Layer(name="norm1", p15=-1.0, p50=0.0, p85=1.0, saturated=0.1, dead=0.0),)),
    a_step(100),
    Evaluation(step=100, loss=0.2, accuracy=0.96, samples=359),
)
END = Ended(outcome="succeeded")
TOLD = [
    "QUEUED",
    "STARTING",
    "RUNNING",
    "phase_change",
    "log_line",
    "phase_change",
    "step_metrics",
    "layer_statistics",
    "step_metrics",
    "evaluation",
    "SUCCEEDED",
]


async def finished(service: Service) -> str:
    service.cluster.script = lambda attempt: (*STORY, END)
    job = await service.submit()
    await service.until_state(job, "SUCCEEDED")
    return job


async def test_a_watch_tells_the_whole_story_in_order_and_ends(service: Service) -> None:
    job = await service.submit()
    watch = service.watch(job)
    await service.until_started(job)
    service.cluster.report(job, *STORY[:4])
    service.cluster.report(job, *STORY[4:], END)
    assert kinds([response async for response in watch]) == TOLD


async def test_a_watch_of_an_ended_job_ends_at_once(service: Service) -> None:
    job = await finished(service)
    assert kinds([response async for response in service.watch(job)]) == TOLD


async def test_an_event_is_told_as_it_was_reported(service: Service) -> None:
    job = await finished(service)
    told = [response.event for response in await service.history(job)]
    assert told[4].log_line == training_pb2.LogLine(level="INFO", rank=0, text="1,438 training samples")
    assert told[6].step_metrics.step_seconds == 0.1
    assert told[6].time.ToMicroseconds() == round(STORY[3].time * 1e6)
    assert told[7].layer_statistics.layers[0].name == "norm1"
    assert not told[7].layer_statistics.layers[0].HasField("drift")
    assert told[9].evaluation.samples == 359
    assert [event.attempt for event in told] == [0] + [1] * 10


async def test_any_cursor_resumes_just_after_its_event(service: Service) -> None:
    job = await finished(service)
    cursors = [response.cursor for response in await service.history(job)]
    for place, cursor in enumerate(cursors):
        assert kinds(await service.history(job, cursor=cursor)) == TOLD[place + 1 :]


async def test_a_watch_that_was_cut_off_goes_on_without_loss_or_repetition(service: Service) -> None:
    job = await service.submit()
    await service.until_started(job)
    service.cluster.report(job, *STORY[:2])
    first: list[training_pb2.WatchTrainingJobResponse] = []
    watch = service.watch(job)
    async for response in watch:
        first.append(response)
        if response.event.HasField("phase_change"):
            break
    watch.cancel()
    service.cluster.report(job, *STORY[2:], END)
    rest = [response async for response in service.watch(job, cursor=first[-1].cursor)]
    assert kinds(first + rest) == TOLD


async def test_only_the_kinds_asked_for_are_told(service: Service) -> None:
    job = await service.submit()
    watch = service.watch(job, kinds=[training_pb2.STEP_METRICS, training_pb2.EVALUATION])
    await service.until_started(job)
    service.cluster.report(job, *STORY, END)
    assert kinds([response async for response in watch]) == ["step_metrics", "step_metrics", "evaluation"]


async def test_a_filtered_watch_sleeps_while_other_kinds_come(service: Service) -> None:
    job = await service.submit()
    watch = service.watch(job, kinds=[training_pb2.LOG_LINE])
    await service.until_started(job)
    service.cluster.report(job, PhaseChange(phase="loading"), *[a_step(step) for step in range(1, 50)])
    service.cluster.report(job, LogLine(level="INFO", text="here"))
    assert (await watch.read()).event.log_line.text == "here"
    watch.cancel()


async def test_history_only_does_not_wait(service: Service) -> None:
    job = await service.submit()
    await service.until_started(job)
    assert kinds(await service.history(job))[:2] == ["QUEUED", "STARTING"]


async def test_more_events_than_one_read_holds_come_in_order(service: Service) -> None:
    service.cluster.script = lambda attempt: (*(a_step(step) for step in range(1, 1502)), END)
    job = await service.submit()
    told = [response.event async for response in service.watch(job, kinds=[training_pb2.STEP_METRICS])]
    assert [event.step_metrics.step for event in told] == list(range(1, 1502))


@pytest.mark.parametrize("cursor", ["garbage", "1", "1.", "ff.000000000000", "-1.0", "0x1.0"])
async def test_a_cursor_that_is_none_is_out_of_range(service: Service, cursor: str) -> None:
    job = await service.submit()
    async with refused() as found:
        await service.history(job, cursor=cursor)
    assert found[0].code is grpc.StatusCode.OUT_OF_RANGE
    assert found[0].reason == "CURSOR_OUT_OF_RANGE"


async def test_a_cursor_of_another_job_is_out_of_range(service: Service) -> None:
    one, other = await service.submit(), await service.submit()
    cursor = (await service.history(one))[0].cursor
    async with refused() as found:
        await service.history(other, cursor=cursor)
    assert found[0].code is grpc.StatusCode.OUT_OF_RANGE


async def test_a_cursor_beyond_the_end_is_out_of_range(service: Service) -> None:
    job = await finished(service)
    last, digest = (await service.history(job))[-1].cursor.split(".")
    async with refused() as found:
        await service.history(job, cursor=f"{int(last, 16) + 1:x}.{digest}")
    assert found[0].code is grpc.StatusCode.OUT_OF_RANGE


async def test_an_unknown_kind_is_refused(service: Service) -> None:
    job = await service.submit()
    async with refused() as found:
        await service.history(job, kinds=[0])
    assert list(found[0].fields) == ["kinds"]


async def test_numbers_that_are_not_finite_arrive_and_break_nothing(service: Service) -> None:
    layer = Layer(name="a", p15=-math.inf, p50=math.nan, p85=math.inf, saturated=1.0, dead=0.0, drift=math.nan)
    reports = (a_step(1, loss=math.nan), a_step(2, loss=math.inf), LayerStatistics(step=2, layers=(layer,)))
    service.cluster.script = lambda attempt: (*reports, END)
    job = await service.submit()
    ended = await service.until_state(job, "SUCCEEDED")
    told = [response.event for response in await service.history(job)][3:6]
    assert math.isnan(told[0].step_metrics.loss)
    assert told[1].step_metrics.loss == math.inf
    assert told[2].layer_statistics.layers[0].p15 == -math.inf
    assert not ended.progress.HasField("loss")
    for message in (*told, ended):
        json_format.Parse(json_format.MessageToJson(message), type(message)())


async def test_text_that_no_message_can_hold_is_made_fit(service: Service) -> None:
    lines = [LogLine(level="INFO", text=text) for text in ("\ud800", "nul\0", "x" * 100_000)]
    service.cluster.script = lambda attempt: (*lines, END)
    job = await service.submit()
    await service.until_state(job, "SUCCEEDED")
    told = [r.event.log_line.text for r in await service.history(job, kinds=[training_pb2.LOG_LINE])]
    assert told[0] == "?"
    assert told[1] == "nul�"
    assert told[2].endswith("(83616 more characters)")


async def test_a_watcher_that_goes_away_leaves_nothing_behind(service: Service) -> None:
    job = await service.submit()
    await service.until_started(job)
    notices = service.plane.jobs._ledger.notices
    watches = [service.watch(job) for _ in range(20)]
    for watch in watches:
        assert (await watch.read()).event.HasField("state_change")
    await until(lambda: notices.waiting() == 20)
    for watch in watches:
        watch.cancel()
    await until(lambda: notices.waiting() == 0)


async def test_a_watch_ends_as_unavailable_when_the_service_stops_and_resumes_with_the_next(
    tmp_path: Path, cluster: FakeExecutor
) -> None:
    async with control_plane(tmp_path, cluster) as service:
        job = await service.submit()
        await service.until_started(job)
        watch = service.watch(job)
        seen = [await watch.read(), await watch.read()]
        stop = asyncio.create_task(service.plane.stop())
        with pytest.raises(grpc.aio.AioRpcError) as error:
            async with asyncio.timeout(PATIENCE):
                await watch.read()
        await stop
    assert refusal(error.value).reason == "SHUTTING_DOWN"
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    async with control_plane(tmp_path, cluster) as service:
        await service.until_started(job, 2)
        cluster.report(job, Ended(outcome="succeeded"))
        rest = [response async for response in service.watch(job, cursor=seen[-1].cursor)]
    assert kinds(seen + rest) == ["QUEUED", "STARTING", "QUEUED", "STARTING", "RUNNING", "SUCCEEDED"]
