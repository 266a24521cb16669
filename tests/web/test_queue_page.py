"""The queue's page and a waiting job's own, of a service whose scheduler decides."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from batchyard.cluster.executor import Capacity
from batchyard.cluster.fake_executor import silent

from .browsing import PICTURES, WIDTHS, Troubles, barriers, unreached
from .service import Service, until, whole_service

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

SPEC: dict[str, Any] = {
    "model": {"architecture": "mlp"}, "data": {"dataset": "mnist"}, "steps": 100, "preemptible": False,
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    async with whole_service(tmp_path_factory.mktemp("queue"), inference=False) as started:
        started.cluster.has = Capacity(workers=4, gpus=0)
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def jobs(service: Service) -> dict[str, str]:
    """Name -> id: one job runs, four wait."""
    service.cluster.script = silent
    found = {}
    for name, priority, workers in (
        ("running", 0, 3), ("big", 0, 4), ("small", 0, 1), ("urgent", 5, 2), ("huge", 0, 4)
    ):  # fmt: skip
        spec = {**SPEC, "name": name, "priority": priority, "workers": {"count": workers}}
        found[name] = (await service.plane.jobs.create(spec)).id
        if name == "running":
            await until(lambda: service.plane.jobs.get(found["running"]), lambda job: job.state != "QUEUED")
    return found


async def open_page(service: Service, browser: Browser, path: str, **context: Any) -> tuple[Page, Troubles]:
    page = await browser.new_page(**context)
    troubles = Troubles(page, service.url)
    await page.goto(f"{service.url}/{path}")
    return page, troubles


async def test_the_queue_is_told_in_order_with_each_jobs_reason(service: Service, jobs: dict[str, str]) -> None:
    queue = await service.json("/api/queue")

    names = [waiting["job"]["spec"]["name"] for waiting in queue["waiting"]]
    verdicts = [waiting["explanation"]["queueing"]["verdict"] for waiting in queue["waiting"]]
    assert (names, queue["length"]) == (["urgent", "big", "small", "huge"], 4)
    assert verdicts == ["NO_ROOM", "BEHIND", "BEHIND", "BEHIND"]
    assert (queue["cluster"]["workers"], queue["used"]["workers"]) == (4, 3)
    assert queue["running"] == [f"trainingJobs/{jobs['running']}"]
    assert not any(waiting["explanation"]["queueing"]["ahead"] for waiting in queue["waiting"])


async def test_the_page_of_the_queue_says_why_each_waits_and_follows(
    service: Service, jobs: dict[str, str], browser: Browser
) -> None:
    page, troubles = await open_page(service, browser, "#/queue")
    table = page.get_by_role("table", name="Waiting jobs")
    urgent = table.get_by_role("row").filter(has_text=jobs["urgent"])
    await expect(urgent).to_contain_text("It is the next to start, and waits for room: it needs 2 workers")
    await expect(page.get_by_role("meter", name="Workers in use")).to_have_attribute("aria-valuenow", "3")
    await expect(page.get_by_role("link", name=jobs["running"])).to_be_visible()
    await expect(table.get_by_role("row")).to_have_count(5)

    await service.plane.jobs.cancel(jobs["huge"])

    await expect(table.get_by_role("row")).to_have_count(4)
    assert troubles.seen == []
    await page.context.close()


async def test_a_waiting_job_says_on_its_page_what_is_ahead_of_it(
    service: Service, jobs: dict[str, str], browser: Browser
) -> None:
    page, troubles = await open_page(service, browser, f"#/jobs/{jobs['small']}")

    why = page.get_by_role("region", name="Why it waits")
    await expect(why).to_contain_text("2 jobs are ahead of it: it needs 1 worker; the cluster has 4 workers")
    await expect(why).to_contain_text("Place 3 in the queue, priority 0.")
    ahead = why.get_by_role("list", name="Jobs ahead").get_by_role("listitem")
    await expect(ahead).to_have_text([re.compile(jobs["urgent"]), re.compile(jobs["big"])])
    await why.get_by_role("link", name="The whole queue").click()
    await expect(page.get_by_role("heading", name="Queue")).to_be_visible()
    assert troubles.seen == []
    await page.context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
async def test_pictures_of_the_queue_fit_their_width(
    theme: Any, width: str, service: Service, jobs: dict[str, str], browser: Browser
) -> None:
    size = WIDTHS[width]
    how = {"viewport": {"width": size[0], "height": size[1]}, "color_scheme": theme}
    for name, path in (("queue", "#/queue"), ("job-waiting", f"#/jobs/{jobs['small']}")):
        page, _ = await open_page(service, browser, path, **how)
        await expect(page.get_by_text("it needs 1 worker; the cluster has 4").first).to_be_visible()
        await page.screenshot(path=PICTURES / f"{name}-{theme}-{width}.png", full_page=True)
        assert await page.evaluate("document.documentElement.scrollWidth") <= size[0]
        assert await barriers(page) == []
        if width == "wide":
            assert await unreached(page) == []
        await page.context.close()
