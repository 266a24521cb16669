"""Looking closer at a part of charts: by pointer, by keyboard, by address; and a chart as a file. In Chromium."""

from __future__ import annotations

import dataclasses
import io
import math
import re

import pytest
from PIL import Image
from playwright.async_api import Page, expect

from batchyard.training.events import StepMetrics

from .browsing import barriers
from .conftest import Site, Tell, Yard, begin_training, story

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

LOSS = re.compile("^Loss over steps")


async def drag(page: Page, chart: int, start: float, end: float) -> None:
    """Over shares of a chart's width."""
    over = page.locator(".u-over").nth(chart)
    await over.scroll_into_view_if_needed()
    box = await over.bounding_box()
    assert box is not None
    await page.mouse.move(box["x"] + start * box["width"], box["y"] + 40)
    await page.mouse.down()
    await page.mouse.move(box["x"] + end * box["width"], box["y"] + 40, steps=4)
    await page.mouse.up()


async def drawn(page: Page, chart: int) -> str:
    return str(await page.evaluate("n => document.querySelectorAll('.chart canvas')[n].toDataURL()", chart))


async def fields(page: Page) -> list[str]:
    return [await page.get_by_label(name).input_value() for name in ("Show from", "Show to")]


async def test_what_is_dragged_over_is_shown_in_all_charts_and_kept_in_the_address(
    site: Site, page: Page, running: Tell
) -> None:
    job = await running(until=1000)
    await page.goto(f"{site.url}/#/jobs/{job.id}")
    await expect(page.get_by_role("img", name=re.compile("^Loss over steps; at step 1,000"))).to_be_visible()
    await expect(page.locator(".chart canvas")).to_have_count(9)
    whole = [await drawn(page, chart) for chart in range(9)]

    await drag(page, 0, 0.25, 0.5)

    shown = page.get_by_role("img", name=re.compile("; shown from [0-9]+ to [0-9]+$"))
    await expect(shown).to_have_count(9)
    first, last = (int(field) for field in await fields(page))
    assert 200 <= first <= 300
    assert 450 <= last <= 550
    assert page.url.endswith(f"#/jobs/{job.id}?from={first}&to={last}")
    part = [await drawn(page, chart) for chart in range(9)]
    assert not set(whole) & set(part)
    await page.mouse.move(1, 1)
    part = [await drawn(page, chart) for chart in range(9)]
    await page.reload()  # as whoever opens the link
    await expect(page.get_by_role("img", name=re.compile(f"^Loss.* at step 1,000.*{first} to {last}$"))).to_be_visible()
    await expect(shown).to_have_count(9)
    assert [await drawn(page, chart) for chart in range(9)] == part

    await page.locator(".u-over").nth(7).dblclick()
    await expect(shown).to_have_count(0)
    assert page.url.endswith(f"#/jobs/{job.id}")
    assert await fields(page) == ["", ""]


async def test_a_part_is_chosen_by_keyboard_and_an_open_end_goes_on_with_the_job(
    site: Site, yard: Yard, page: Page, running: Tell
) -> None:
    job = await running(until=400)
    await page.goto(f"{site.url}/#/jobs/{job.id}")
    await expect(page.locator(".chart canvas")).to_have_count(9)

    await page.get_by_label("Show from").focus()
    await page.keyboard.type("300")
    await page.keyboard.press("Enter")

    loss = page.get_by_role("img", name=LOSS)
    await expect(loss).to_have_attribute("aria-label", re.compile("; shown from 300 to the last$"))
    before = await drawn(page, 0)
    await yard.report(job.id, *story(1000, 700)[-60:])
    await expect(loss).to_have_attribute("aria-label", re.compile("at step 700.*shown from 300 to the last$"))
    assert await drawn(page, 0) != before
    assert page.url.endswith("?from=300")
    assert await barriers(page) == []
    await page.get_by_role("button", name="Show all").focus()
    await page.keyboard.press("Enter")

    await expect(loss).to_have_attribute("aria-label", re.compile("^(?!.*shown from)"))
    await expect(page.get_by_label("Show from")).to_be_focused()


async def test_a_part_of_a_long_history_is_shown_in_all_its_detail(site: Site, yard: Yard, page: Page) -> None:
    job = await yard.create(steps=9000)
    like = next(event for event in story(9000, 20) if isinstance(event, StepMetrics))
    told = [dataclasses.replace(like, step=n, loss=1 + math.sin(n) / 9) for n in range(1, 9001)]
    await begin_training(yard, job, told)
    await page.goto(f"{site.url}/#/jobs/{job.id}?from=5000&to=5020")
    await expect(page.get_by_role("img", name=re.compile("^Loss over steps; at step 9,000:"))).to_be_visible()
    at = page.get_by_role("region", name="Loss over steps").locator(".at")
    over = page.locator(".u-over").first
    box = await over.bounding_box()
    assert box is not None

    for step in range(5001, 5020):  # of 9,000 a page is sent 600 at first
        await page.mouse.move(box["x"] + box["width"] * (step - 5000) / 20, box["y"] + 30)
        await expect(at).to_have_text(f"at step {step:,}")


async def test_a_comparison_is_opened_as_its_address_says(site: Site, page: Page, running: Tell) -> None:
    jobs = [await running(until=1000), await running(until=400)]
    address = f"{site.url}/#/compare/{','.join(job.id for job in jobs)}"
    await page.goto(address)
    await page.get_by_role("button", name="Log", exact=True).click()
    await page.get_by_role("slider", name="Smoothing of the loss").fill("0.6")
    await page.get_by_role("button", name="Time", exact=True).click()
    await page.get_by_label("Show to").fill("2.5")
    await page.keyboard.press("Enter")
    assert page.url == f"{address}?log=true&smooth=0.6&axis=time&to=2.5"

    await page.reload()

    loss = page.get_by_role("img", name=re.compile("^Training loss over time, logarithmic; smoothed:"))
    await expect(loss).to_have_attribute("aria-label", re.compile("; shown from the first to 2.5$"))
    await expect(page.get_by_role("slider", name="Smoothing of the loss")).to_have_value("0.6")
    await page.get_by_role("button", name="Steps", exact=True).click()  # of which 2.5 says nothing
    await expect(page.get_by_role("img", name=re.compile("^Training loss over steps"))).to_be_visible()
    assert page.url == f"{address}?log=true&smooth=0.6"


async def test_a_chart_is_saved_as_a_picture_with_its_title_and_key(site: Site, page: Page, running: Tell) -> None:
    job = await running(until=400)
    await page.goto(f"{site.url}/#/jobs/{job.id}")
    async with page.expect_download() as asked:
        await page.get_by_role("button", name="Save the chart Loss over steps as a PNG").click()

    file = await asked.value

    assert file.suggested_filename == f"{job.id}-Loss-over-steps.png"
    picture = Image.open(io.BytesIO((await file.path()).read_bytes())).convert("RGB")
    box = await page.locator(".chart canvas").first.bounding_box()
    assert box is not None
    assert picture.width > box["width"]
    assert picture.height > box["height"] + 30
    assert picture.getpixel((1, 1)) == (255, 255, 255)  # the ground of a panel
    head = picture.crop((0, 0, picture.width, 60)).getcolors(100_000)
    assert head is not None
    colours = {colour for _, colour in head}
    assert (47, 99, 216) in colours
    assert (194, 87, 12) in colours
