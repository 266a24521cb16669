"""The serving page, of a whole service: what its inference plane is asked shows, live."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, expect

from tests.serving.probed import ProbedNetwork

from .browsing import PICTURES, WIDTHS, Troubles, barriers, ink, unreached
from .service import Service, until, whole_service

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

FIRST, SECOND = ProbedNetwork(seed=1), ProbedNetwork(seed=2)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """Serves two versions of mnist and has been asked a little of both."""
    async with whole_service(tmp_path_factory.mktemp("service")) as started:
        await started.publish(FIRST, publish={"model": "mnist", "alias": "stable"})
        await started.publish(SECOND, seed=2)
        for seed, rows in enumerate((1, 3, *[8] * 10, 40)):
            await started.ask(FIRST.clean(rows, seed), "1")
            await started.ask(SECOND.clean(rows, seed))
        with pytest.raises(grpc.aio.AioRpcError):
            await started.ask(FIRST.clean(1), model="none-such")
        with pytest.raises(grpc.aio.AioRpcError):
            await started.ask(FIRST.clean(1)[:, :, :7], "1")
        yield started


async def page_of(service: Service, browser: Browser, **context: Any) -> tuple[Page, Troubles]:
    page = await browser.new_page(**context)
    troubles = Troubles(page, service.url)
    await page.goto(f"{service.url}/#/serving")
    return page, troubles


async def test_the_traffic_of_each_version_is_told_as_it_was(service: Service) -> None:
    def counted(traffic: Any) -> dict[str, float]:
        names = [f"{v['model']}/{v['number']}" for v in traffic["versions"]]
        sums = dict.fromkeys(names, 0.0)
        for point in traffic["points"]:
            for version in point["versions"]:
                sums[names[version.get("version", 0)]] += version["requests_per_second"] * point["seconds"]
        return {name: round(count, 6) for name, count in sums.items()}

    def done(traffic: Any) -> bool:
        known = [version for version in traffic["versions"] if version["layers"] == ["norm1", "norm2"]]
        return counted(traffic) == {"mnist/1": 14.0, "mnist/2": 13.0, "/": 1.0} and len(known) == 2

    traffic = await until(lambda: service.json("/api/serving?seconds=300"), done)

    newest = {traffic["versions"][v["version"]]["number"]: v for v in traffic["points"][-1]["versions"]}
    rows = sum(
        version["rows_per_second"] * point["seconds"]
        for point in traffic["points"] for version in point["versions"] if version["version"] == 1
    )  # fmt: skip
    assert round(rows) == 124
    assert traffic["batch_bounds"][:3] == [1, 2, 4]
    assert newest["1"]["shift"] < 0.1
    assert newest["2"]["layer_shifts"][0] < 0.1
    refused = [
        version["refused_per_second"] for point in traffic["points"] for version in point["versions"]
        if version["refused_per_second"]
    ]  # fmt: skip
    assert {code for each in refused for code in each} == {"NOT_FOUND", "INVALID_ARGUMENT"}


async def test_a_window_that_is_too_long_is_refused(service: Service) -> None:
    error = (await service.json("/api/serving?seconds=7200", status=400))["error"]

    assert error["violations"] == [{"field": "seconds", "description": "7200 given; expected 60 to 3600"}]


async def test_the_page_draws_what_comes_while_one_looks(service: Service, browser: Browser) -> None:
    page, troubles = await page_of(service, browser)
    await expect(
        page.get_by_role("img", name=re.compile("^Requests per second over time; now: .*mnist.1"))
    ).to_be_visible()
    await expect(page.get_by_role("img", name=re.compile("^Latency over time; now: p50"))).to_be_visible()
    await expect(page.get_by_role("img", name=re.compile("^Refused per second.*NOT_FOUND"))).to_be_visible()
    assert await ink(page, 0) > 500
    sizes = page.get_by_role("table", name="Batches by size")
    await expect(sizes.get_by_role("row").filter(has_text="33–64")).to_contain_text("2")

    # Until the page has drawn a point with traffic in it: one comes every two seconds.
    table = page.get_by_role("table", name="Traffic by version, now")
    shown = asyncio.create_task(_shows(table.get_by_role("row").filter(has_text="mnist/2"), re.compile(r"100\D*%")))
    while not shown.done():
        await service.ask(SECOND.clean(2, seed=6))
    await shown
    await page.get_by_role("combobox", name="Show").select_option("mnist/2")

    await expect(page.get_by_role("img", name=re.compile("^Covariate shift over time; now: norm1 0."))).to_be_visible()
    assert troubles.seen == []
    await page.context.close()


async def _shows(place: Locator, words: re.Pattern[str]) -> None:
    await expect(place).to_contain_text(words, timeout=15_000)


async def test_shifted_data_shows_in_every_layer(service: Service, browser: Browser) -> None:
    dark = (SECOND.clean(60, seed=7) * 0.2).astype(np.uint8)
    for _ in range(40):
        await service.ask(dark)
    page, troubles = await page_of(service, browser)
    await page.get_by_role("combobox", name="Show").select_option("mnist/2")

    chart = page.get_by_role("img", name=re.compile(r"^Covariate shift over time; now: norm1 (?!0\.0)\d"))
    await expect(chart).to_be_visible(timeout=15_000)
    assert troubles.seen == []
    await page.context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
async def test_pictures_of_serving_fit_their_width(theme: Any, width: str, service: Service, browser: Browser) -> None:
    size = WIDTHS[width]
    page, _ = await page_of(service, browser, viewport={"width": size[0], "height": size[1]}, color_scheme=theme)
    await expect(page.get_by_role("img", name=re.compile("^Requests per second over time"))).to_be_visible()
    PICTURES.mkdir(parents=True, exist_ok=True)

    await page.screenshot(path=PICTURES / f"serving-{theme}-{width}.png", full_page=True)

    assert await page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert await barriers(page) == []
    if width == "wide":
        assert await unreached(page) == []
    await page.context.close()
