"""Choosing jobs in the list and comparing them, in headless Chromium."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from batchyard.control.records import Job
from batchyard.training.events import Evaluation, Event, Resumed, StepMetrics

from .browsing import PICTURES, WIDTHS, barriers, ink
from .conftest import Site, Tell, Yard, begin_training, story

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

LOSS = re.compile("^Training loss over steps; now")


def box(page: Page, job: Job) -> Any:
    return page.get_by_role("checkbox", name=f"Choose {job.id}")


def link(page: Page) -> Any:
    return page.locator("#link-word")


async def two(yard: Yard, running: Tell) -> tuple[Job, Job]:
    """One that still trains and has 400 steps done, and a plain network that has ended."""
    plain = await yard.create(name="plain", publish=None, model={"architecture": "mlp", "norm": "none"})
    await begin_training(yard, plain, story(1000, 1000, rate=30))
    await yard.succeed(plain.id)
    return await running(until=400), plain


async def values(page: Page, field: str) -> list[str]:
    return await page.get_by_role("region", name=field).locator(".key b").all_inner_texts()


async def point(page: Page, share: float) -> None:
    """Puts the pointer at a share of the loss chart's width."""
    bounds = await page.locator(".u-over").first.bounding_box()
    assert bounds is not None
    await page.mouse.move(bounds["x"] + share * (bounds["width"] - 2) + 1, bounds["y"] + 20)


async def drawn(page: Page) -> str:
    return str(await page.evaluate("document.querySelector('.chart canvas').toDataURL()"))


def told_apart(events: list[Event], number: int) -> list[Event]:
    """The same story with other losses and accuracies."""
    return [
        dataclasses.replace(e, loss=e.loss * 0.8**number, accuracy=e.accuracy * (1 - 0.01 * number))
        if isinstance(e, StepMetrics | Evaluation)
        else e
        for e in events
    ]


async def settled(page: Page, before: str) -> None:
    """Until the loss chart is another picture than before."""
    async with asyncio.timeout(10):
        while await page.locator(".chart canvas").count() < 2 or await drawn(page) == before:
            await page.evaluate("new Promise(requestAnimationFrame)")


async def test_jobs_chosen_in_the_list_are_drawn_over_each_other(
    site: Site, yard: Yard, page: Page, running: Tell
) -> None:
    training, plain = await two(yard, running)
    await page.goto(site.url)
    compare = page.get_by_role("button", name="Compare", exact=True)
    await box(page, training).check()
    await expect(page.get_by_text("choose another to compare")).to_be_visible()
    await expect(compare).to_be_hidden()
    await page.get_by_role("button", name="Succeeded").click()
    await box(page, plain).check()

    await compare.click()

    assert page.url.endswith(f"#/compare/{training.id},{plain.id}")
    chart = page.get_by_role("img", name=LOSS)
    await expect(chart).to_have_attribute("aria-label", re.compile(rf"{training.id} 0\.2.*, {plain.id} 0\.0"))
    await expect(page.get_by_role("img", name=re.compile("^Held-out accuracy over steps; now.*9"))).to_be_visible()
    await expect(page.locator(".chart canvas")).to_have_count(2)
    for canvas in range(2):
        assert await ink(page, canvas) > 1000
    table = page.get_by_role("table", name="Compared jobs")
    heads = ["Job", "State", "Step", "Loss", "Best held out", "model.norm"]  # in all other settings they agree
    assert await table.get_by_role("columnheader").all_inner_texts() == heads
    of_plain = table.get_by_role("row").filter(has_text=plain.id).get_by_role("cell")
    await expect(of_plain.nth(3)).to_have_text(re.compile(r"^best 0\.0"))
    await expect(of_plain.nth(4)).to_have_text(re.compile(r"^best 9\d\.\d\d.%$"))
    await expect(of_plain.nth(5)).to_have_text("none")
    await expect(table.get_by_role("row").filter(has_text=training.id).get_by_role("cell").nth(5)).to_have_text("batch")


async def test_more_than_eight_jobs_can_be_chosen_but_not_compared(site: Site, yard: Yard, page: Page) -> None:
    jobs = [await yard.create(name=f"job-{number}") for number in range(9)]
    await page.goto(site.url)
    for job in jobs[:8]:
        await box(page, job).check()
    await expect(page.get_by_text("8 jobs chosen", exact=True)).to_be_visible()
    await expect(page.get_by_role("button", name="Compare", exact=True)).to_be_visible()
    await box(page, jobs[8]).check()
    await expect(page.get_by_text("9 jobs chosen; at most 8 can be compared")).to_be_visible()
    await expect(page.get_by_role("button", name="Compare", exact=True)).to_be_hidden()

    await yard.jobs.cancel(jobs[0].id)  # the list goes on under the choice
    await expect(page.get_by_role("row").filter(has_text=jobs[0].id)).to_contain_text("Cancelled")
    await expect(box(page, jobs[0])).to_be_checked()
    await page.get_by_role("button", name="Clear").click()

    await expect(page.get_by_role("checkbox", checked=True)).to_have_count(0)
    await expect(page.get_by_role("group", name="Chosen jobs")).to_be_hidden()


async def test_the_key_tells_the_values_at_the_pointer(site: Site, yard: Yard, page: Page, running: Tell) -> None:
    training, plain = await two(yard, running)
    await page.goto(f"{site.url}/#/compare/{training.id},{plain.id}")
    await expect(page.get_by_role("img", name=LOSS)).to_be_visible()
    await expect(page.locator(".chart canvas")).to_have_count(2)
    newest = await values(page, "Training loss")

    await point(page, 0)

    await expect(page.get_by_text("at step 1", exact=True)).to_have_count(2)  # both charts follow
    first = await values(page, "Training loss")
    assert all(1.9 < float(value) < 2.4 for value in first)
    await point(page, 1)
    await expect(page.get_by_role("region", name="Training loss")).to_contain_text("at step 1,000")
    assert await values(page, "Training loss") == newest
    await page.mouse.move(1, 1)
    await expect(page.get_by_text("at step 1,000")).to_have_count(0)


async def test_curves_can_be_smoothed_and_drawn_on_a_logarithmic_scale(
    site: Site, yard: Yard, page: Page, running: Tell
) -> None:
    training, plain = await two(yard, running)
    await page.goto(f"{site.url}/#/compare/{training.id},{plain.id}")
    await expect(page.locator(".chart canvas")).to_have_count(2)
    raw, held_out = await values(page, "Training loss"), await values(page, "Held-out accuracy")
    before = await drawn(page)

    await page.get_by_role("slider", name="Smoothing of the loss").fill("0.95")

    await settled(page, before)
    await expect(page.get_by_text("smoothed", exact=True)).to_have_count(1)
    assert [float(s) > float(r) for s, r in zip(await values(page, "Training loss"), raw, strict=True)] == [True] * 2
    assert await values(page, "Held-out accuracy") == held_out
    before = await drawn(page)
    await page.get_by_role("button", name="Log", exact=True).click()
    await settled(page, before)
    await expect(page.get_by_role("img", name=re.compile("^Training loss over steps, logarithmic"))).to_be_visible()


async def test_curves_can_be_drawn_over_the_time_that_each_job_took(
    site: Site, yard: Yard, page: Page, running: Tell
) -> None:
    training, plain = await two(yard, running)
    await page.goto(f"{site.url}/#/compare/{training.id},{plain.id}")
    await expect(page.locator(".chart canvas")).to_have_count(2)
    before = await drawn(page)

    await page.get_by_role("button", name="Time", exact=True).click()
    await settled(page, before)
    await point(page, 1)

    # 1,000 steps at 30 a second.
    await expect(page.get_by_role("region", name="Training loss")).to_contain_text("at 33\u00a0s")
    await expect(page.get_by_role("heading", name="Training loss over time")).to_be_visible()


async def test_jobs_that_go_on_are_followed_until_all_have_ended(
    site: Site, yard: Yard, page: Page, running: Tell
) -> None:
    training, plain = await two(yard, running)
    await page.goto(f"{site.url}/#/compare/{training.id},{plain.id}")
    mine = page.get_by_role("table", name="Compared jobs").get_by_role("row").filter(has_text=training.id)
    await expect(mine).to_contain_text("400")
    await expect(link(page)).to_have_text("live")

    await yard.report(training.id, *story(1000, 800)[-40:])
    await expect(mine).to_contain_text("800")
    await yard.report(training.id, Resumed(step=600), *story(1000, 640)[-4:])
    await expect(mine).to_contain_text("640")
    await yard.succeed(training.id)

    await expect(mine).to_contain_text("Succeeded")
    await expect(link(page)).to_have_text("complete")


async def test_what_cannot_be_compared_is_named_and_the_rest_drawn(site: Site, browser: Browser, running: Tell) -> None:
    page = await browser.new_page()  # a refused request is an error in the console, too
    job = await running(until=40)
    await page.goto(f"{site.url}/#/compare/{job.id},none-such")
    await expect(page.get_by_role("alert")).to_contain_text("trainingJobs/none-such does not exist")
    await expect(page.get_by_role("img", name=LOSS)).to_be_visible()

    await page.goto(f"{site.url}/#/compare/{','.join('abcdefghi')}")

    await expect(page.get_by_role("alert")).to_contain_text("9 jobs named; at most 8 can be compared")
    await page.context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
async def test_pictures_of_a_comparison_fit_their_width(
    theme: Any, width: str, site: Site, yard: Yard, browser: Browser, running: Tell
) -> None:
    jobs = [*await two(yard, running)]
    for number in range(2, 8):
        job = await yard.create(name=f"rate-{number}", optimizer={"learning_rate": 0.1 * number})
        await begin_training(yard, job, told_apart(story(1000, 120 * number, rate=20.0 * number), number))
        jobs.append(job)
    size = WIDTHS[width]
    page = await browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=theme)
    PICTURES.mkdir(parents=True, exist_ok=True)
    await page.goto(site.url)
    for job in jobs[:2]:
        await box(page, job).check()
    await page.screenshot(path=PICTURES / f"jobs-chosen-{theme}-{width}.png")
    assert await page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert await barriers(page) == []

    await page.goto(f"{site.url}/#/compare/{','.join(job.id for job in jobs)}")
    await expect(page.locator(".chart canvas")).to_have_count(2)
    before = await drawn(page)
    await page.get_by_role("button", name="Log", exact=True).click()
    await page.get_by_role("slider", name="Smoothing of the loss").fill("0.6")
    await settled(page, before)

    await page.screenshot(path=PICTURES / f"compare-{theme}-{width}.png", full_page=True)
    assert await page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert await barriers(page) == []
    await page.context.close()
