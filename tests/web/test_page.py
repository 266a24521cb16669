"""The dashboard in headless Chromium: what is drawn, live, in both themes and at both widths."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from batchyard.control.records import Failure
from batchyard.endpoint.security import Security
from batchyard.training.events import Layer, LayerStatistics, LogLine, PhaseChange, Resumed

from .browsing import PICTURES, WIDTHS, barriers, ink, row, unreached
from .conftest import Site, Tell, Yard, begin_training, manifest, serve, story

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


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

    await page.get_by_role("button", name="Show older jobs").click()
    await expect(rows).to_have_count(54)
    await expect(page.get_by_role("button", name="Show older jobs")).to_be_hidden()
    await page.get_by_role("button", name="Cancelled").click()
    await expect(rows).to_have_count(1)
    await expect(rows).to_contain_text(gone.id)
    await page.get_by_role("button", name="Failed").click()
    await expect(page.get_by_text("No job is in such a state.")).to_be_visible()


async def test_one_job_is_drawn_with_its_curves_bands_log_and_spec(
    site: Site, yard: Yard, page: Page, running: Tell
) -> None:
    job = await running(until=400)
    await page.goto(f"{site.url}/#/jobs/{job.id}")

    await expect(page.get_by_role("heading", name=job.id)).to_be_visible()
    await expect(
        page.get_by_role("img", name=re.compile("^Loss over steps; at step 400: training 0.2"))
    ).to_be_visible()
    await expect(page.get_by_role("img", name=re.compile("^Accuracy over steps.*held out 9"))).to_be_visible()
    bands = page.get_by_role("img", name=re.compile("^Activation percentiles of layers"))
    await expect(bands).to_have_count(3)
    await expect(page.locator(".chart canvas")).to_have_count(8)
    for canvas in range(8):
        assert await ink(page, canvas) > 1000
    # A band covers an area that a few lines never would.
    assert await ink(page, 5) > 0.4 * int(
        await page.evaluate("(c => c.width * c.height)(document.querySelectorAll('.chart canvas')[5])")
    )
    await expect(page.get_by_role("log")).to_contain_text("mnist: 60000 samples")
    await expect(page.get_by_text("architecture: mlp")).to_be_visible()

    await yard.report(job.id, *story(1000, 700)[-8:], LogLine(level="WARNING", rank=1, text="slow disk"))

    await expect(page.get_by_role("img", name=re.compile("^Loss over steps; at step 700"))).to_be_visible()
    await expect(page.get_by_role("log")).to_contain_text("worker 1WARNING slow disk")
    await expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "70")


async def test_restarts_are_marked_and_what_they_make_void_goes(
    site: Site, yard: Yard, page: Page, running: Tell
) -> None:
    job = await running(until=400)
    await page.goto(f"{site.url}/#/jobs/{job.id}")
    await expect(page.get_by_role("img", name=re.compile("^Loss over steps; at step 400"))).to_be_visible()
    before = await ink(page, 3)

    await yard.report(job.id, Resumed(step=200), *story(1000, 300)[-4:])

    words = re.compile("^Time per step over steps; now 16.7.ms; attempt 1 goes on from step 200$")
    await expect(page.get_by_role("img", name=words)).to_be_visible()
    await expect(page.get_by_role("img", name=re.compile("^Loss over steps; at step 300"))).to_be_visible()
    assert await ink(page, 3) != before


async def test_all_layers_are_seen_at_once_in_a_heat_map(site: Site, yard: Yard, page: Page, running: Tell) -> None:
    job = await running(until=400)
    await page.goto(f"{site.url}/#/jobs/{job.id}")
    drift = page.get_by_role(
        "img", name=re.compile("^Drift from the running statistics, largest now: layers.0.norm, 0.00")
    )
    await expect(drift).to_be_visible()
    assert await dark_pixels(page) > 100  # the first reports, before the running statistics had settled

    await page.get_by_role("combobox", name="Quantity").select_option("dead")

    await expect(
        page.get_by_role("img", name=re.compile("^Dead units, largest now: layers.2.norm, 2.0"))
    ).to_be_visible()
    assert await dark_pixels(page) == 0  # 2% are pale
    await page.locator(".heat canvas").scroll_into_view_if_needed()
    box = await page.locator(".heat canvas").bounding_box()
    assert box is not None
    await page.mouse.move(box["x"] + box["width"] - 3, box["y"] + 30)
    await expect(page.locator(".heat-words")).to_have_text(re.compile("^layers.1.norm at step 400: 1.0"))


async def dark_pixels(page: Page) -> int:
    """Pixels of the heat map that are clearly red."""
    script = """() => {
        const c = document.querySelector(".heat canvas");
        const copy = new OffscreenCanvas(c.width, c.height).getContext("2d", { willReadFrequently: true });
        copy.drawImage(c, 0, 0);
        const d = copy.getImageData(0, 0, c.width, c.height).data;
        let count = 0;
        for (let i = 0; i < d.length; i += 4) count += d[i + 3] > 200 && d[i] > d[i + 1] + 30 && d[i] > d[i + 2] + 30;
        return count;
    }"""
    return int(await page.evaluate(script))


async def test_alarms_say_in_words_what_lasts_and_what_to_do(site: Site, yard: Yard, page: Page, running: Tell) -> None:
    job = await running(until=200)
    await page.goto(f"{site.url}/#/jobs/{job.id}")
    await expect(page.locator(".heat canvas")).to_be_visible()
    await expect(page.get_by_text("What to look at")).to_be_hidden()

    for step, saturated in ((220, 0.45), (240, 0.2), (260, 0.6), (280, 0.41)):
        layer = Layer(
            name="layers.1.norm", p15=-9, p50=0, p85=9, saturated=saturated, dead=0.0, smallest_batch=8, skipped=3
        )
        await yard.report(job.id, LayerStatistics(step=step, layers=(layer,)))

    alarms = page.locator(".alarms")
    await expect(alarms).to_contain_text(
        "layers.1.norm: 41\u00a0% of the inputs lie where the activation is flat since step 260. "
        "What to do: lower optimizer.learning_rate, or put batch normalisation before the activation"
    )
    await expect(alarms).to_contain_text("normalised over 8 values only")
    await expect(alarms).to_contain_text("3 batches were not finite")
    assert await alarms.locator("li").count() == 3


async def test_charts_reach_the_last_step_of_a_job_that_goes_on(
    site: Site, yard: Yard, page: Page, running: Tell
) -> None:
    job = await running(until=100)
    await page.goto(f"{site.url}/#/jobs/{job.id}")
    await expect(page.locator(".chart canvas")).to_have_count(8)

    for until in (300, 600, 1000):
        await yard.report(job.id, *story(1000, until)[-3:])
        await expect(page.get_by_role("img", name=re.compile(f"^Loss over steps; at step {until:,}"))).to_be_visible()

    # The pointer at the right end of a chart is at the last step that is drawn.
    for place, words in ((0, "at step 1,000"), (5, "at step 1,000")):
        over = page.locator(".u-over").nth(place)
        await over.scroll_into_view_if_needed()
        box = await over.bounding_box()
        assert box is not None
        await page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 20)
        await expect(page.get_by_text(words).first).to_be_visible()


async def test_the_log_is_searched(site: Site, yard: Yard, page: Page, running: Tell) -> None:
    job = await running(until=40)
    await page.goto(f"{site.url}/#/jobs/{job.id}")
    lines = page.get_by_role("log").locator(":scope > div:visible")
    await yard.report(job.id, LogLine(level="WARNING", rank=1, text="slow disk"))
    await expect(lines).to_have_count(2)

    await page.get_by_role("searchbox", name="Search in the log").fill("DISK")
    await expect(lines).to_have_text([re.compile("slow disk")])
    await expect(page.get_by_text("1 of 2 lines")).to_be_visible()
    await yard.report(job.id, LogLine(level="INFO", text="elsewhere"), LogLine(level="INFO", text="disk is well"))

    await expect(lines).to_have_text([re.compile("slow disk"), re.compile("disk is well")])


async def test_a_failure_says_its_cause_and_what_to_do(site: Site, yard: Yard, page: Page, running: Tell) -> None:
    job = await running(until=120)
    await page.goto(f"{site.url}/#/jobs/{job.id}")
    await expect(page.locator("h1 + .state")).to_have_text("Running")

    await yard.fail(
        job.id,
        Failure(failure_class="user", cause="loss is NaN at step 121", next_step="lower optimizer.learning_rate"),
    )

    failure = page.get_by_role("alert").filter(has_text="loss is NaN")
    await expect(failure).to_contain_text("What to do: lower optimizer.learning_rate")
    await expect(page.locator("h1 + .state")).to_have_text("Failed")
    await expect(page.locator("#link")).to_have_text("complete")
    await expect(page.get_by_text("None: the job ended before it could publish to mnist.")).to_be_visible()


async def test_a_published_version_shows_its_certificate_and_what_became_of_each_layer(
    site: Site, yard: Yard, page: Page, running: Tell
) -> None:
    job = await running(until=1000)
    await yard.report(job.id, PhaseChange(phase="publishing"))
    await page.goto(f"{site.url}/#/jobs/{job.id}")
    await expect(page.get_by_text("folded, certified and published to mnist as production")).to_be_visible()

    await yard.succeed(job.id, manifest(job))

    version = page.get_by_role("region", name="Published version")
    await expect(version).to_contain_text("mnist / 1")
    await expect(version).to_contain_text("Passed")
    await expect(version).to_contain_text("3.10 × 10⁻⁶")
    folds = version.get_by_role("table", name="Fold report")
    await expect(folds.get_by_role("row")).to_have_count(5)
    await expect(folds).to_contain_text("two layers read what comes before it")
    await page.get_by_role("link", name="Models").click()
    await expect(page.get_by_role("region", name="mnist")).to_contain_text("production")


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


async def test_everything_can_be_reached_by_keyboard(site: Site, page: Page, running: Tell) -> None:
    job = await running(until=40)
    await page.goto(site.url)
    await expect(row(page, job)).to_be_visible()
    reached = []
    for _ in range(14):
        await page.keyboard.press("Tab")
        reached.append(
            str(
                await page.evaluate(
                    "(n => n.tagName === 'INPUT' ? n.ariaLabel : n.textContent.trim())(document.activeElement)"
                )
            )
        )
        if reached[-1] == job.id:
            break

    assert reached == ["Skip to the content", "Batchyard", "Jobs", "Queue", "Models", "Serving", "All", "Active",
                       "Succeeded", "Failed", "Cancelled", f"Compare {job.id}", job.id]  # fmt: skip
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name=job.id)).to_be_visible()
    await expect(page.locator(".chart canvas")).to_have_count(8)
    assert await unreached(page) == []


async def test_nothing_jumps_while_a_job_goes_on(site: Site, yard: Yard, page: Page, running: Tell) -> None:
    job = await running(until=100)
    await page.goto(f"{site.url}/#/jobs/{job.id}")
    await expect(page.locator(".chart canvas")).to_have_count(8)
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
    await yard.create(name="long-" * 7 + "named")
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
            await expect(page.locator(".chart canvas")).to_have_count(8)
        await page.screenshot(path=PICTURES / f"{name}-{theme}-{width}.png", full_page=True)
        assert await page.evaluate("document.documentElement.scrollWidth") <= size[0], name
        assert await barriers(page) == []
    ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(246, 246, 243)" if theme == "light" else "rgb(15, 18, 22)")
    await context.close()
