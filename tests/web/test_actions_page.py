"""Cancelling, pausing and resuming from a job's page, in headless Chromium."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Page, Route, expect

from .browsing import PICTURES, WIDTHS, barriers
from .conftest import Site, Tell, Yard

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


def action(page: Page, name: str) -> Locator:
    return page.get_by_role("group", name="Actions").get_by_role("button", name=name, exact=True)


async def confirm(page: Page, verb: str) -> None:
    await action(page, verb).click()
    await page.get_by_role("dialog").get_by_role("button", name=f"{verb} job").click()


async def offered(page: Page) -> list[str]:
    return [await b.inner_text() for b in await page.get_by_role("group", name="Actions").get_by_role("button").all()]


async def test_a_job_is_paused_resumed_and_cancelled_and_the_page_says_so(site: Site, yard: Yard, page: Page) -> None:
    job = await yard.create()
    await page.goto(f"{site.url}/#/jobs/{job.id}")
    state = page.locator("h1 + .state")
    await expect(state).to_have_text("Queued")
    assert await offered(page) == ["Pause", "Cancel"]

    await confirm(page, "Pause")
    await expect(state).to_have_text("Paused")
    await expect(page.get_by_text("Paused: it waits until it is resumed.")).to_be_focused()
    assert await offered(page) == ["Resume", "Cancel"]

    await confirm(page, "Resume")
    await expect(state).to_have_text("Queued")
    await expect(page.get_by_text("Resumed: it goes on when its turn comes.")).to_be_visible()

    await confirm(page, "Cancel")
    await expect(state).to_have_text("Cancelled")
    await expect(page.get_by_text("Cancelled.", exact=True)).to_be_visible()
    await expect(page.get_by_role("dialog")).to_have_count(0)
    assert await offered(page) == ["Rerun"]
    assert (await yard.jobs.get(job.id)).state == "CANCELLED"


async def test_a_running_job_is_asked_to_stop_and_offers_nothing_once_it_has_ended(
    site: Site, yard: Yard, page: Page, running: Tell
) -> None:
    job = await running(until=400)
    await page.goto(f"{site.url}/#/jobs/{job.id}")
    await action(page, "Cancel").click()
    dialog = page.get_by_role("dialog", name="Cancel this job?")
    await expect(dialog).to_contain_text("stop (step 400 of 1,000 is done), and nothing is published")

    await dialog.get_by_role("button", name="Cancel job").click()

    told = page.get_by_text("Asked to stop: its workers end after the step that they are at.")
    await expect(told).to_be_visible()
    await expect(page.locator("h1 + .state")).to_have_text("Cancelling")
    assert await offered(page) == []
    await yard.succeed(job.id)  # its last step was done first
    await expect(page.locator("h1 + .state")).to_have_text("Succeeded")
    await expect(told).to_have_count(0)


async def test_an_ended_job_is_submitted_again_as_a_new_one(site: Site, yard: Yard, page: Page, running: Tell) -> None:
    job = await running(until=400, seed=7)
    await yard.succeed(job.id)
    await page.goto(f"{site.url}/#/jobs/{job.id}")
    await action(page, "Rerun").click()
    dialog = page.get_by_role("dialog", name="Rerun this job?")
    await expect(dialog).to_contain_text("publishes a new version of mnist, and production moves to it")

    await dialog.get_by_role("button", name="Rerun job").click()

    told = page.locator(".told")
    await expect(told).to_contain_text("Submitted again as")
    await expect(told).to_be_focused()
    await told.get_by_role("link").click()
    await expect(page.locator("h1 + .state")).to_have_text("Queued")
    first, again = reversed((await yard.jobs.list()).jobs)
    assert (first.id, first.state) == (job.id, "SUCCEEDED")
    assert (again.spec, again.spec["seed"]) == (job.spec, 7)


async def test_nothing_is_asked_for_until_it_is_confirmed(site: Site, yard: Yard, page: Page) -> None:
    job = await yard.create()
    await page.goto(f"{site.url}/#/jobs/{job.id}")

    await action(page, "Cancel").focus()
    await page.keyboard.press("Enter")
    leave = page.get_by_role("button", name="Leave it")
    await expect(leave).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await page.keyboard.press("Enter")
    await expect(leave).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)

    await expect(action(page, "Cancel")).to_be_focused()
    assert (await yard.jobs.get(job.id)).state == "QUEUED"


async def test_a_refusal_is_shown_where_it_was_asked(site: Site, yard: Yard, browser: Browser) -> None:
    page = await browser.new_page()  # a refused request is an error in the console, too
    job = await yard.create()
    await page.goto(f"{site.url}/#/jobs/{job.id}")
    await action(page, "Pause").click()
    dialog = page.get_by_role("dialog")
    ask = dialog.get_by_role("button", name="Pause job")

    async def lose(route: Route) -> None:
        await route.abort("connectionrefused")

    await page.route("**/pause", lose)
    await ask.click()
    await expect(dialog.get_by_role("alert")).to_have_text("The service cannot be reached. Try again when it is.")
    await page.unroute("**/pause")
    await yard.jobs.cancel(job.id)
    await ask.click()

    await expect(dialog.get_by_role("alert")).to_contain_text(
        f"trainingJobs/{job.id} is CANCELLED: a job that has ended cannot be paused"
    )
    await page.context.close()


async def test_several_jobs_are_cancelled_with_one_confirmation(
    site: Site, yard: Yard, page: Page, running: Tell
) -> None:
    waiting, training, done = await yard.create(name="waiting"), await running(until=40), await running(until=1000)
    await yard.succeed(done.id)
    await page.goto(site.url)
    await page.get_by_role("checkbox", name=f"Choose {waiting.id}").check()
    chosen = page.get_by_role("group", name="Chosen jobs")
    await chosen.get_by_role("button", name="All shown").click()
    await expect(chosen).to_contain_text("3 jobs chosen")
    await chosen.get_by_role("button", name="Cancel 2").click()  # the third has ended
    dialog = page.get_by_role("dialog", name="Cancel 2 jobs?")
    await expect(dialog.get_by_role("listitem")).to_have_text([waiting.id, training.id])
    assert (await yard.jobs.get(waiting.id)).state == "QUEUED"

    await dialog.get_by_role("button", name="Cancel 2 jobs").click()

    await expect(page.get_by_text("2 jobs asked to stop.")).to_be_focused()
    await expect(page.get_by_role("row").filter(has_text=training.id)).to_contain_text("Cancelling")
    await expect(page.get_by_role("row").filter(has_text=waiting.id)).to_contain_text("Cancelled")
    await expect(chosen).to_be_hidden()
    assert (await yard.jobs.get(done.id)).state == "SUCCEEDED"


async def test_of_several_jobs_those_that_refuse_are_named_and_the_others_asked(
    site: Site, yard: Yard, browser: Browser
) -> None:
    page = await browser.new_page()  # a refused request is an error in the console, too
    first, second = await yard.create(name="first"), await yard.create(name="second")
    await page.goto(site.url)
    for job in (first, second):
        await page.get_by_role("checkbox", name=f"Choose {job.id}").check()
    await page.get_by_role("group", name="Chosen jobs").get_by_role("button", name="Pause").click()
    dialog = page.get_by_role("dialog", name="Pause 2 jobs?")
    await expect(dialog).to_be_visible()
    await yard.jobs.cancel(second.id)

    await dialog.get_by_role("button", name="Pause 2 jobs").click()

    told = dialog.get_by_role("alert")
    await expect(told).to_contain_text(f"1 of 2 jobs asked to pause. trainingJobs/{second.id} is CANCELLED")
    assert (await yard.jobs.get(first.id)).state == "PAUSED"
    await page.context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
async def test_pictures_of_the_question_fit_their_width(
    theme: Any, width: str, site: Site, browser: Browser, running: Tell
) -> None:
    job = await running(until=400, name="a-job-with-a-rather-long-name")
    size = WIDTHS[width]
    page = await browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=theme)
    PICTURES.mkdir(parents=True, exist_ok=True)
    await page.goto(f"{site.url}/#/jobs/{job.id}")
    await expect(page.locator(".chart canvas")).to_have_count(9)

    await action(page, "Cancel").click()

    await expect(page.get_by_role("button", name="Leave it")).to_be_visible()
    await page.screenshot(path=PICTURES / f"job-cancel-{theme}-{width}.png")
    assert await page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert await barriers(page) == []
    await page.context.close()
