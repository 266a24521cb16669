"""The list of jobs in headless Chromium: live, searched, sorted, in pages."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Page, expect

from .browsing import barriers, row
from .conftest import SPEC, Site, Tell, Yard, story

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


async def test_the_list_shows_every_job_and_follows_what_happens(
    site: Site, yard: Yard, page: Page, running: Tell
) -> None:
    training = await running(until=400)
    await page.goto(site.url)

    shown = row(page, training)
    await expect(shown).to_contain_text("Running")
    await expect(shown).to_contain_text("400 / 1,000")
    await expect(shown).to_contain_text("left")
    await expect(shown).to_contain_text("held out")
    await expect(shown.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "40")
    course = re.compile(r"^M0\.0 1\.0(L[\d.]+ [\d.]+){15,40}$")
    await expect(shown.locator(".spark path")).to_have_attribute("d", course)
    await expect(page.locator("#link")).to_have_text("live")

    queued = await yard.create(name="queued-later")
    await expect(row(page, queued)).to_contain_text("Queued")
    await expect(page.locator("tbody tr").first).to_contain_text(queued.id)

    await yard.report(training.id, *story(1000, 800))
    await expect(shown).to_contain_text("800 / 1,000")
    await yard.succeed(training.id)
    await expect(shown).to_contain_text("Succeeded")
    await expect(shown).to_contain_text("took")


async def test_an_empty_list_says_how_to_begin(site: Site, yard: Yard, page: Page) -> None:
    await page.goto(site.url)
    await expect(page.get_by_text("batchyard submit job.yaml --follow")).to_be_visible()

    await yard.create(name="first")

    await expect(page.get_by_role("table", name="Training jobs")).to_contain_text("first-")


async def test_jobs_can_be_chosen_by_state_and_older_ones_asked_for(site: Site, yard: Yard, page: Page) -> None:
    for number in range(53):
        await yard.create(name=f"job-{number}")
    gone = await yard.create(name="gone")
    await yard.jobs.cancel(gone.id)
    rows = page.locator("tbody tr")
    await page.goto(site.url)
    await expect(rows).to_have_count(50)
    tabs = page.get_by_role("group", name="Which jobs").get_by_role("button")
    await expect(tabs).to_have_text(["All 54", "Active 53", "Succeeded 0", "Failed 0", "Cancelled 1"])

    await page.get_by_role("button", name="Show more jobs").click()
    await expect(rows).to_have_count(54)
    await expect(page.get_by_role("button", name="Show more jobs")).to_be_hidden()
    await page.get_by_role("button", name="Cancelled").click()
    await expect(rows).to_have_count(1)
    await expect(rows).to_contain_text(gone.id)
    await page.get_by_role("button", name="Failed").click()
    await expect(page.get_by_text("No job is in such a state.")).to_be_visible()


async def test_jobs_are_searched_and_the_address_keeps_it(site: Site, yard: Yard, page: Page) -> None:
    await yard.jobs.create({**SPEC, "name": "wide-resnet"}, user="ada")
    await yard.jobs.create({**SPEC, "name": "resnet"}, user="grace")
    await yard.create(name="mlp")
    rows = page.locator("tbody tr")
    await page.goto(site.url)
    await expect(rows).to_have_count(3)

    field = page.get_by_role("searchbox", name="Search jobs")
    await field.fill("RESNET ada")
    await expect(rows).to_have_text([re.compile("wide-resnet.* ada")])
    await yard.jobs.create({**SPEC, "name": "resnet-later"}, user="ada")
    await yard.create(name="other")
    await expect(rows).to_have_count(2)
    await expect(page.locator(".tabs button").first).to_have_text("All 2")  # of those that the search finds

    await page.reload()
    await expect(field).to_have_value("RESNET ada")
    await expect(rows).to_have_count(2)
    await field.fill("nothing-like-it")
    await expect(
        page.get_by_text("No job has “nothing-like-it” in its name, owner, state, tags or note.")
    ).to_be_visible()


async def test_jobs_are_sorted_by_the_heads_of_their_columns(site: Site, yard: Yard, page: Page, running: Tell) -> None:
    near, far = await running(until=100, name="near"), await running(until=300, name="far")
    await yard.create(name="new")
    names = page.locator("tbody .name a")
    await page.goto(site.url)
    await expect(names).to_have_text([re.compile("^new"), re.compile("^far"), re.compile("^near")])

    await page.get_by_role("button", name="Loss").focus()
    await page.keyboard.press("Enter")
    await expect(names).to_have_text([re.compile("^far"), re.compile("^near"), re.compile("^new")])
    await expect(page.get_by_role("columnheader", name="Loss")).to_have_attribute("aria-sort", "ascending")
    await page.keyboard.press("Enter")
    await expect(names).to_have_text([re.compile("^near"), re.compile("^far"), re.compile("^new")])
    assert page.url.endswith("#/jobs?sort=loss")

    await row(page, far).get_by_role("link").focus()
    await yard.report(near.id, *story(1000, 1000)[-3:])
    await expect(names).to_have_text([re.compile("^far"), re.compile("^near"), re.compile("^new")])
    await expect(row(page, far).get_by_role("link")).to_be_focused()


async def test_a_setting_is_shown_as_a_column_and_kept_in_the_address(site: Site, yard: Yard, page: Page) -> None:
    for rate in (0.1, 0.25):
        await yard.create(optimizer={"learning_rate": rate})
    await page.goto(site.url)
    choice = page.get_by_role("combobox", name="A setting as a column")
    differ = choice.locator("optgroup[label='Differ between these jobs'] option")
    await expect(differ).to_have_text(["optimizer.learning_rate"])

    await choice.select_option("optimizer.learning_rate")

    column = page.locator("tbody .setting-cell")
    await expect(column).to_have_text(["0.25", "0.1"])
    await expect(page.get_by_role("columnheader", name="optimizer.learning_rate")).to_be_visible()
    assert page.url.endswith("#/jobs?column=optimizer.learning_rate")
    await page.reload()
    await expect(column).to_have_text(["0.25", "0.1"])
    await yard.create(model={"architecture": "mlp", "hidden": [8, 8]}, optimizer={"learning_rate": 3.0})
    await expect(column).to_have_text(["3", "0.25", "0.1"])
    await choice.select_option("model.hidden")
    await expect(column.first).to_have_text("[8, 8]")
    assert await barriers(page) == []
    await choice.select_option("")
    await expect(column.first).to_be_hidden()


async def test_a_job_beyond_what_is_shown_stays_there_when_it_changes(
    site: Site, yard: Yard, page: Page, running: Tell
) -> None:
    last = await running(until=100, name="zz-last")
    for number in range(50):
        await yard.create(name=f"job-{number:02}")
    rows = page.locator("tbody tr")
    await page.goto(f"{site.url}/#/jobs?sort=name&rising=true")
    await expect(rows).to_have_count(50)

    await yard.report(last.id, *story(1000, 120)[-2:])
    gone = await yard.create(name="aa-first")
    await expect(rows.first).to_contain_text(gone.id)

    await expect(row(page, last)).to_have_count(0)
    await page.get_by_role("button", name="Show more jobs").click()
    await expect(row(page, last)).to_contain_text("120 / 1,000")
