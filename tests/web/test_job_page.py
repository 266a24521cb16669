"""A job's page in headless Chromium: what is drawn, and how it follows the job."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Page, expect

from batchyard.control.records import Failure
from batchyard.training.events import Checkpointed, Evaluation, Layer, LayerStatistics, LogLine, PhaseChange, Resumed

from .browsing import ink
from .conftest import Site, Tell, Yard, manifest, story

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


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
    await expect(page.locator(".chart canvas")).to_have_count(9)
    for canvas in range(9):
        assert await ink(page, canvas) > 1000
    # A band covers an area that a few lines never would.
    assert await ink(page, 6) > 0.4 * int(
        await page.evaluate("(c => c.width * c.height)(document.querySelectorAll('.chart canvas')[6])")
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


async def test_the_time_of_a_step_is_drawn_by_its_parts(site: Site, yard: Yard, page: Page, running: Tell) -> None:
    job = await running(until=400)
    await page.goto(f"{site.url}/#/jobs/{job.id}")

    words = re.compile("^Where a step's time goes, over steps; now data 667.µs, forward 5.00.ms, backward 6.67.ms, ")
    await expect(page.get_by_role("img", name=words)).to_be_visible()
    panel = page.get_by_role("region", name="Where a step's time goes")
    await expect(panel).to_contain_text(re.compile("anything else833.µs"))
    assert await ink(page, 5) > 0.6 * int(
        await page.evaluate("(c => c.width * c.height)(document.querySelectorAll('.chart canvas')[5])")
    )


async def test_checkpoints_are_listed_with_what_the_network_was_worth(
    site: Site, yard: Yard, page: Page, running: Tell
) -> None:
    job = await running(until=400)
    await page.goto(f"{site.url}/#/jobs/{job.id}")
    for step, score in ((500, 0.95), (600, 0.9)):
        await yard.report(job.id, Evaluation(step=step, loss=0.1, accuracy=score, samples=10))
        await yard.report(job.id, Checkpointed(step=step, uri=f"file:///c/{step}", sha256="ab" * 32, bytes=1_500_000))

    rows = page.get_by_role("table", name="Checkpoints").locator("tbody tr")
    await expect(rows).to_have_text([re.compile("600.*1.5.MB.*90.00.%newest"), re.compile("500.*95.00.%best")])
    await yard.report(job.id, Resumed(step=500))
    await expect(rows).to_have_text([re.compile("500.*newestbest")])


async def test_the_parts_of_the_page_are_jumped_to(site: Site, yard: Yard, page: Page, running: Tell) -> None:
    job = await running(until=400)
    await page.goto(f"{site.url}/#/jobs/{job.id}")
    parts = page.get_by_role("navigation", name="On this page").get_by_role("button")
    await expect(parts).to_have_text(["Charts", "Step time", "Activations", "Version", "Log", "Spec"])
    await yard.report(job.id, Checkpointed(step=400, uri="file:///c/400", sha256="ab" * 32, bytes=1_500_000))
    await expect(parts.nth(3)).to_have_text("Checkpoints")
    log = page.get_by_role("log")
    await expect(log).not_to_be_in_viewport()

    await page.get_by_role("button", name="Log", exact=True).press("Enter")

    await expect(log).to_be_in_viewport()
    await page.keyboard.press("Tab")  # whoever jumps goes on from there
    await expect(page.get_by_role("searchbox", name="Search in the log")).to_be_focused()


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
    await expect(page.locator(".chart canvas")).to_have_count(9)

    for until in (300, 600, 1000):
        await yard.report(job.id, *story(1000, until)[-3:])
        await expect(page.get_by_role("img", name=re.compile(f"^Loss over steps; at step {until:,}"))).to_be_visible()

    # The pointer at the right end of a chart is at the last step that is drawn.
    for place, words in ((0, "at step 1,000"), (6, "at step 1,000")):
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


async def test_the_whole_log_is_downloaded(site: Site, yard: Yard, page: Page, running: Tell) -> None:
    job = await running(until=40)
    await yard.report(job.id, LogLine(level="WARNING", rank=1, text="slow disk"), LogLine(level="INFO", text="later"))
    await page.goto(f"{site.url}/#/jobs/{job.id}")
    async with page.expect_download() as asked:
        await page.get_by_role("button", name="Download").click()

    file = await asked.value

    assert file.suggested_filename == f"{job.id}.log"
    lines = (await file.path()).read_text().splitlines()
    assert [line.partition(" ")[2] for line in lines] == [
        "worker 0 INFO mnist: 60000 samples", "worker 1 WARNING slow disk", "supervisor INFO later",
    ]  # fmt: skip


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
