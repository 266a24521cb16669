"""The life of a page: hostile text, token, service away, hidden tab, keyboard, both themes and both widths."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from batchyard.control.records import Failure
from batchyard.endpoint.security import Security
from batchyard.training.events import Checkpointed, LogLine

from .browsing import PICTURES, WIDTHS, barriers, row, unreached
from .conftest import Site, Tell, Yard, begin_training, manifest, serve, story

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

WHOLE = re.compile("^Loss over steps; at step (120|460|1,000):")
"""A chart in which all has come that was told of a job of the pictures."""
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


async def test_what_users_write_is_shown_and_never_run(site: Site, yard: Yard, page: Page, running: Tell) -> None:
    job = await running(until=40)
    await yard.report(job.id, LogLine(level="ERROR", rank=0, text=HOSTILE))
    await yard.fail(job.id, Failure(failure_class="user", cause=HOSTILE, next_step=HOSTILE))
    await page.goto(f"{site.url}/#/jobs/{job.id}")

    await expect(page.get_by_role("log")).to_contain_text(HOSTILE)
    await expect(page.get_by_role("alert").filter(has_text=HOSTILE)).to_be_visible()
    assert await page.locator("main script, main img").count() == 0
    assert await page.title() == f"{job.id} · Batchyard"


async def test_a_job_that_is_not_there_is_said_to_be_missing(site: Site, browser: Browser) -> None:
    page = await browser.new_page()
    await page.goto(f"{site.url}/#/jobs/none-such")

    await expect(page.get_by_role("alert").filter(has_text="trainingJobs/none-such does not exist")).to_be_visible()

    await page.goto(f"{site.url}/#/elsewhere")
    await expect(page.get_by_role("heading", name="No such page")).to_be_visible()


async def test_the_page_asks_for_the_token_until_it_is_right_and_keeps_it_for_the_tab(
    tmp_path: Path, browser: Browser
) -> None:
    token = tmp_path / "token"
    token.write_text("correct-horse-battery\n")
    token.chmod(0o600)
    async with serve(tmp_path, Security(token_file=token)) as site:
        job = await site.yard.create(name="behind-a-token")
        await begin_training(site.yard, job, story(1000, 40))
        page = await browser.new_page()
        await page.goto(site.url)
        field = page.get_by_label("Token", exact=True)
        await expect(field).to_be_focused()
        await page.keyboard.press("Escape")
        await field.fill("wrong-horse-battery-staple")
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("The service refused that token.")).to_be_visible()

        await field.fill("correct-horse-battery")
        await page.keyboard.press("Enter")

        await expect(row(page, job)).to_contain_text("40 / 1,000")
        await page.reload()
        await page.get_by_role("link", name=job.id).click()
        await expect(page.get_by_role("img", name=re.compile("^Loss over steps; at step 40"))).to_be_visible()
        await expect(page.get_by_role("dialog")).to_be_hidden()
        await page.context.close()


async def test_a_page_whose_service_went_away_says_so_and_goes_on_when_it_is_back(
    tmp_path: Path, browser: Browser
) -> None:
    page = await browser.new_page()
    async with serve(tmp_path) as site:
        job = await site.yard.create(name="survivor")
        await begin_training(site.yard, job, story(1000, 40))
        await page.goto(f"{site.url}/#/jobs/{job.id}")
        await expect(page.locator("#link")).to_have_text("live")

    await expect(page.locator("#link")).to_have_text("offline")

    async with serve(tmp_path, port=int(site.url.rpartition(":")[2])) as site:
        await expect(page.locator("#link")).to_have_text("live", timeout=20_000)
        await site.yard.report(job.id, *story(1000, 80)[-2:])
        await expect(page.get_by_role("img", name=re.compile("^Loss over steps; at step 80"))).to_be_visible()
        await page.close()


async def test_a_hidden_tab_lets_go_of_its_stream_and_misses_nothing(
    site: Site, yard: Yard, page: Page, running: Tell
) -> None:
    job = await running(until=40)
    await page.goto(f"{site.url}/#/jobs/{job.id}")
    await expect(page.locator("#link")).to_have_text("live")
    hide = """hidden => {
        Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""

    async with page.expect_event("requestfailed", lambda request: "/events?" in request.url):
        await page.evaluate(hide, True)
    await yard.report(job.id, *story(1000, 120)[-2:], LogLine(level="INFO", text="unseen"))
    async with asyncio.timeout(15):
        while yard.notices.waiting():  # the service, too, notices that nobody listens
            await yard.report(job.id, LogLine(level="INFO", text="anyone?"))
    await expect(page.get_by_role("log")).not_to_contain_text("unseen")

    await page.evaluate(hide, False)
    await expect(page.get_by_role("img", name=re.compile("^Loss over steps; at step 120"))).to_be_visible()
    await expect(page.get_by_role("log")).to_contain_text("unseen")


NAME = """(n => n.ariaLabel ?? (n.tagName === 'SELECT' ? n.value : n.textContent.trim()))(document.activeElement)"""
"""Of what has the focus."""


async def test_everything_can_be_reached_by_keyboard(site: Site, page: Page, running: Tell) -> None:
    job = await running(until=40)
    await page.goto(site.url)
    await expect(row(page, job)).to_be_visible()
    await expect(page.get_by_role("button", name="All 1")).to_be_visible()
    reached = []
    for _ in range(30):
        await page.keyboard.press("Tab")
        reached.append(str(await page.evaluate(NAME)))
        if reached[-1] == job.id:
            break

    assert reached == ["Skip to the content", "Batchyard, jobs", "Jobs", "Queue", "Models", "Serving", "All 1",
                       "Active 1", "Succeeded 0", "Failed 0", "Cancelled 0", "Search jobs", "created",
                       "From the smallest up: turn round", "A setting as a column", "Job", "State", "Progress", "Loss",
                       "Accuracy", "Samples/s", "Age", f"Choose {job.id}", job.id]  # fmt: skip
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name=job.id)).to_be_visible()
    await expect(page.locator(".chart canvas")).to_have_count(9)
    assert await unreached(page) == []


async def test_nothing_jumps_while_a_job_goes_on(site: Site, yard: Yard, page: Page, running: Tell) -> None:
    job = await running(until=100)
    await page.goto(f"{site.url}/#/jobs/{job.id}")
    await expect(page.locator(".chart canvas")).to_have_count(9)
    where = (
        "[...document.querySelectorAll('main section, main h1')].map(n => Math.round(n.getBoundingClientRect().top))"
    )
    before = await page.evaluate(where)

    await yard.report(job.id, *story(1000, 800)[-40:], LogLine(level="INFO", text="line"))
    await expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "80")

    assert await page.evaluate(where) == before


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
async def test_pictures_of_every_page_fit_their_width(
    theme: Any, width: str, site: Site, yard: Yard, browser: Browser, running: Tell
) -> None:
    done = await running(until=1000, name="mnist-bn")
    await yard.succeed(done.id, manifest(done))
    broken = await running(until=120, name="too-fast", optimizer={"learning_rate": 50.0})
    await yard.fail(broken.id, Failure(failure_class="user", cause="loss is NaN", next_step="lower the learning rate"))
    plain = await yard.create(name="plain-network", publish=None, model={"architecture": "mlp", "norm": "none"})
    await begin_training(yard, plain, story(1000, 460, drifting=True))
    for step in (200, 400):
        kept = Checkpointed(step=step, uri=f"file:///checkpoints/{step}", sha256="ab" * 32, bytes=1_500_000)
        await yard.report(plain.id, kept)
    await yard.create(name="long-" * 7 + "named")
    await yard.jobs.annotate(
        plain.id, ["sweep-3", "no-norm", "paper/fig1"], note="Without normalisation, for comparison."
    )
    size = WIDTHS[width]
    context = await browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=theme)
    page = await context.new_page()
    PICTURES.mkdir(parents=True, exist_ok=True)
    pages = {"jobs": "#/jobs", "job-live": f"#/jobs/{plain.id}", "job-done": f"#/jobs/{done.id}",
             "job-failed": f"#/jobs/{broken.id}", "models": "#/models"}  # fmt: skip

    for name, path in pages.items():
        await page.goto(f"{site.url}/{path}")
        await expect(page.locator("#link")).to_have_text(re.compile("live|complete|loaded"))
        if name.startswith("job-"):
            await expect(page.locator(".chart canvas")).to_have_count(9)
            await expect(page.get_by_role("img", name=WHOLE)).to_be_visible()
        await page.screenshot(path=PICTURES / f"{name}-{theme}-{width}.png", full_page=True)
        assert await page.evaluate("document.documentElement.scrollWidth") <= size[0], name
        assert await barriers(page) == []
    ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(246, 246, 243)" if theme == "light" else "rgb(15, 18, 22)")
    await context.close()
