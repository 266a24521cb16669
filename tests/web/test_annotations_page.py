"""Tags and notes in headless Chromium: written on a job's page and on several jobs at once, and searched."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser, Page, expect

from .browsing import barriers, row, unreached
from .conftest import Site, Tell, Yard

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


async def test_tags_are_added_and_removed_by_keyboard_and_lead_to_the_jobs_that_have_them(
    site: Site, yard: Yard, page: Page, running: Tell
) -> None:
    job, other = await running(until=40), await yard.create(name="other")
    await page.goto(f"{site.url}/#/jobs/{job.id}")
    field = page.get_by_role("textbox", name="Add a tag")
    tags = page.get_by_role("list", name="Tags").get_by_role("listitem")
    for tag in ("sweep-3", "baseline"):
        await field.fill(tag)
        await page.keyboard.press("Enter")
        await expect(field).to_have_value("")
    await expect(tags).to_have_text(["baseline×", "sweep-3×"])
    assert await barriers(page) == []
    assert await unreached(page) == []

    await page.get_by_role("button", name="Remove the tag baseline").press("Enter")

    await expect(tags).to_have_text(["sweep-3×"])
    await expect(field).to_be_focused()
    assert (await yard.jobs.get(job.id)).tags == ("sweep-3",)
    await page.get_by_role("link", name="sweep-3").click()
    await expect(page.get_by_role("searchbox", name="Search jobs")).to_have_value("sweep-3")
    await expect(page.locator("tbody tr")).to_have_count(1)
    await expect(row(page, job).get_by_role("link", name="sweep-3")).to_be_visible()
    await yard.jobs.annotate(other.id, note="a better sweep-3")  # found by its note, and at once
    await expect(page.locator("tbody tr")).to_have_count(2)


async def test_a_note_is_written_and_what_users_write_is_shown_as_it_is(
    site: Site, yard: Yard, page: Page, running: Tell
) -> None:
    job = await running(until=40)
    await page.goto(f"{site.url}/#/jobs/{job.id}")
    await page.get_by_role("button", name="Add a note").click()
    await expect(page.get_by_role("textbox", name="Note")).to_be_focused()
    await page.keyboard.type("rate too high\n<b>see</b> fig. 1")

    await page.get_by_role("button", name="Save", exact=True).click()

    await expect(page.locator(".note")).to_have_text("rate too high\n<b>see</b> fig. 1")
    await expect(page.get_by_role("button", name="Edit the note")).to_be_focused()
    await yard.jobs.annotate(job.id, note="by somebody else")
    await page.reload()
    await expect(page.locator(".note")).to_have_text("by somebody else")


async def test_an_illegal_tag_is_refused_where_it_was_written(site: Site, yard: Yard, browser: Browser) -> None:
    page = await browser.new_page()  # a refused request is an error in the console, too
    job = await yard.create()
    await page.goto(f"{site.url}/#/jobs/{job.id}")
    await page.get_by_role("textbox", name="Add a tag").fill("two words")

    await page.keyboard.press("Enter")

    await expect(
        page.get_by_role("alert").filter(has_text="'two words' given; expected 1 to 64 letters")
    ).to_be_visible()
    await expect(page.get_by_role("textbox", name="Add a tag")).to_have_value("two words")
    await page.context.close()


async def test_several_jobs_are_tagged_at_once(site: Site, yard: Yard, page: Page) -> None:
    jobs = [await yard.create(name=f"job-{number}") for number in range(3)]
    await page.goto(site.url)
    for job in jobs[:2]:
        await page.get_by_role("checkbox", name=f"Choose {job.id}").check()
    await page.get_by_role("group", name="Chosen jobs").get_by_role("button", name="Tag").click()
    await page.get_by_role("dialog", name="Tag 2 jobs").get_by_role("textbox", name="Tag").fill("sweep-4")

    await page.get_by_role("button", name="Add the tag").click()

    await expect(page.get_by_text("2 jobs tagged.")).to_be_focused()
    await expect(page.get_by_role("link", name="sweep-4")).to_have_count(2)
    assert [(await yard.jobs.get(job.id)).tags for job in jobs] == [("sweep-4",), ("sweep-4",), ()]
