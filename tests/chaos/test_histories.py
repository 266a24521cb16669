"""Histories of a service that is being broken: each failpoint once, and some that are drawn from seeds.

`make chaos` runs ten times as many; docs/chaos.md says how one that fails is run again.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from batchyard.cluster.fake_executor import FakeExecutor
from batchyard.control import scheduler
from batchyard.failpoints import armed
from batchyard.failpoints.catalogue import CATALOGUE
from tests.chaos.each_failpoint import GROUPS, IN_PROCESS, armed_in, plans
from tests.chaos.histories import Ground, Result, references, run, say
from tests.chaos.service import forging
from tests.control.harness import a_step, control_plane

SEEDS = range(1, 51)
AT_A_TIME = 3
AGAIN = "make chaos"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Result]]:
    """Every history's, by its seed."""
    root = tmp_path_factory.mktemp("chaos")
    with forging(root) as address, ThreadPoolExecutor(AT_A_TIME) as pool:
        ground = Ground(root=root, forge=address)
        undisturbed = references(ground)
        runs = [pool.submit(run, plan.seed, ground, undisturbed) for plan in plans().values()]
        runs += [pool.submit(run, seed, ground, undisturbed) for seed in SEEDS]
        yield {result.seed: result for result in (each.result() for each in runs)}


@pytest.mark.timeout(600)  # all histories run before the first test
@pytest.mark.parametrize("name", GROUPS)
def test_a_service_that_is_killed_at_its_failpoints_keeps_its_promises(results: dict[int, Result], name: str) -> None:
    plan = plans()[name]
    result = results[plan.seed]
    fired = {fault.rpartition(" ")[2] for fault in result.faults if " at " in fault}
    assert fired == armed_in(plan), say(result, AGAIN)
    assert not result.violations, say(result, AGAIN)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_history_drawn_from_a_seed_keeps_every_promise(results: dict[int, Result], seed: int) -> None:
    assert not results[seed].violations, say(results[seed], AGAIN)


def test_every_failpoint_is_killed_at_once() -> None:
    groups = set().union(*(armed_in(plan) for plan in plans().values()))
    assert groups | set(IN_PROCESS) == set(CATALOGUE)


@pytest.mark.parametrize("name", IN_PROCESS)
async def test_a_stop_that_breaks_off_at_its_failpoints_is_made_up_for_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(scheduler, "PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(scheduler, "STOP_SECONDS", 0.1)
    cluster = FakeExecutor()
    cluster.obedient = False
    async with AsyncExitStack() as stack:
        stack.enter_context(pytest.raises(OSError, match=f"failpoint {name}"))
        service = await stack.enter_async_context(control_plane(tmp_path / "data", cluster))
        job = await service.submit(retries=1)
        await service.until_started(job)
        cluster.report(job, a_step(1))
        await service.until_state(job, "RUNNING")
        monkeypatch.setattr("batchyard.failpoints._armed", armed.read(f"{name}=error", str(tmp_path / "state")))
    async with control_plane(tmp_path / "data", FakeExecutor()) as service:
        assert (await service.until_started(job, 2)).id.number == 2
