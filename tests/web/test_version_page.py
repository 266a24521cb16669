"""A version's page, of a whole service: lineage, engines, a picture tried out, deployed, rolled back, recalibrated."""

from __future__ import annotations

import asyncio
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image
from playwright.async_api import Browser, Locator, Page, expect

from batchyard.artifact.reader import read_certified_manifest
from batchyard.control.ledger import Unit
from batchyard.control.records import Job
from batchyard.control.states import State
from batchyard.control.store import checkpoints
from batchyard.control.store import jobs as job_rows
from batchyard.control.store import models as store
from batchyard.training.events import Checkpointed
from batchyard.training.spec import TrainingJobSpec

from .browsing import PICTURES, WIDTHS, Troubles, barriers, unreached
from .service import Service, until, whole_service

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

OWN = {"Batchyard-Request": "1"}
TASK: dict[str, Any] = {
    "name": "digits",
    "model": {"architecture": "mlp", "hidden": [16]},
    "data": {"dataset": "digits", "batch_size": 61},
    "steps": 10,
    "publish": {"model": "digits"},
}
PIXELS = np.random.default_rng(0).integers(0, 256, (1, 1, 8, 8), np.uint8)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """Serves a network that was really trained, a little, as versions 1 and 2 of digits; 2 is production."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "job.json").write_text(json.dumps(TASK))
    command = [sys.executable, "-m", "batchyard.training", str(folder / "job.json"), "--out", str(folder)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=120, check=True)
    digest = json.loads(done.stdout.splitlines()[-1])["manifest_sha256"]
    async with whole_service(folder / "service") as started:
        await register(started, folder / "artifact", digest)
        await until(lambda: started.ready("2", "digits"), bool)
        yield started


async def register(service: Service, artifact: Path, digest: str) -> None:
    second = artifact.with_name("artifact-2")
    second.symlink_to(artifact)

    order = TrainingJobSpec.from_mapping(TASK).to_mapping()
    job = Job(number=0, id=TASK["name"], spec=order, state=State.SUCCEEDED, attempt=1, create_time=time.time())
    kept = Checkpointed(step=10, uri="file:///checkpoints/10", sha256="cd" * 32, bytes=12_345)

    def write(unit: Unit) -> None:
        checkpoints.record(unit.connection, job_rows.add(unit.connection, job, None), [kept])
        for place, (uri, alias) in enumerate(((artifact, "stable"), (second, "production")), 1):
            manifest = read_certified_manifest(str(uri), digest)
            store.add_version(unit.connection, manifest, str(uri), digest, unit.now)
            store.set_alias(unit.connection, "digits", alias, place)
        unit.models_changed = True

    await service.plane.registry._ledger.write(write)


async def post(service: Service, path: str, body: bytes = b"", status: int = 200) -> Any:
    async with service.session.post(service.url + path, data=io.BytesIO(body), headers=OWN) as response:
        assert response.status == status, await response.text()
        return await response.json()


async def open_page(service: Service, browser: Browser, path: str, **context: Any) -> tuple[Page, Troubles]:
    page = await browser.new_page(**context)
    troubles = Troubles(page, service.url)
    await page.goto(f"{service.url}/{path}")
    return page, troubles


def action(page: Page, name: str) -> Locator:
    return page.get_by_role("group", name="Actions").get_by_role("button", name=name, exact=True)


async def test_a_prediction_goes_through_the_control_plane_and_says_what_the_network_says(service: Service) -> None:
    answer = await post(service, "/api/models/digits/versions/2/predict", PIXELS.tobytes())

    logits = np.frombuffer((await service.ask(PIXELS, model="digits")).raw_output_contents[0], "<f4").astype(float)
    expected = np.exp(logits) / np.exp(logits).sum()
    found = {entry["class"]: entry["probability"] for entry in answer["classes"]}
    assert [entry["label"] for entry in answer["classes"]][:3] == [str(c) for c in (-logits).argsort()[:3]]
    np.testing.assert_allclose([found[c] for c in range(10)], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("versions/2/predict", b"\0" * 63, 400, "63 bytes given; expected 64, UINT8 pixels [1, 8, 8]"),
        ("versions/2/predict", b"\0" * 3_000_000, 400, "3000000 bytes given; expected 64"),
        ("versions/9/predict", b"\0" * 64, 404, "models/digits/versions/9 does not exist"),
        ("versions/2/recalibrate?prior=-1", b"", 400, "-1"),
        ("aliases/production?version=9", b"", 404, "does not exist"),
        ("aliases/No", b"", 400, "expected a version number"),
    ],
    ids=["a byte too few", "far too many", "no such version", "a prior below zero", "alias to nowhere", "a bad alias"],
)
async def test_what_is_wrong_with_a_request_is_told(
    service: Service, path: str, body: bytes, status: int, words: str
) -> None:
    assert words in (await post(service, f"/api/models/digits/{path}", body, status))["error"]["message"]


async def test_another_page_cannot_ask_for_a_prediction(service: Service) -> None:
    path = f"{service.url}/api/models/digits/versions/2/predict"
    async with service.session.post(path, data=PIXELS.tobytes(), headers={"Origin": "http://evil.test"}) as response:
        assert response.status == 403


async def test_the_page_tells_where_the_version_came_from_and_what_its_engines_took(
    service: Service, browser: Browser
) -> None:
    page, troubles = await open_page(service, browser, "#/models")
    await page.get_by_role("link", name="Version 2 of digits").click()

    chain = page.get_by_role("list", name="From what is served back to the data").locator(":scope > li")
    await expect(chain.first).to_contain_text("digits@production")
    for words in ("Version", "Certificate", "Checkpointstep 10", "Jobdigits", "Spec and code", "Data"):
        await expect(chain.filter(has_text=re.compile(f"^{words}"))).to_have_count(1)
    await expect(chain.filter(has_text="Spec and code")).to_contain_text(re.compile("torch.*2\\."))
    engines = page.get_by_role("table", name="Times of one batch, by engine")
    await expect(engines.get_by_role("row").filter(has_text="onnxruntime").first).to_contain_text("µs")
    await expect(page.get_by_role("table", name="Fold report")).to_be_visible()
    assert troubles.seen == []
    await page.context.close()


async def draw(page: Page) -> None:
    pad = page.get_by_role("img", name="Place to draw on with a pointer")
    await pad.scroll_into_view_if_needed()
    box = await pad.bounding_box()
    assert box is not None
    await page.mouse.move(box["x"] + 120, box["y"] + 40)
    await page.mouse.down()
    for down in range(40, 200, 20):
        await page.mouse.move(box["x"] + 125, box["y"] + down)
    await page.mouse.up()


async def test_a_drawing_and_a_picture_are_classified(service: Service, browser: Browser) -> None:
    page, troubles = await open_page(service, browser, "#/models/digits/versions/2")
    verdict = page.get_by_role("status").filter(has_text=re.compile("Draw|after"))
    await draw(page)
    await expect(verdict).to_have_text(re.compile(r"^\d: [\d.]+\D*%, after"))
    classes = page.get_by_role("table", name="Classes, the most probable first")
    await expect(classes.get_by_role("row")).to_have_count(11)

    await page.get_by_role("button", name="Clear").click()
    await expect(classes).to_have_count(0)
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[0, 0]).save(buffer, "PNG")
    picture: Any = {"name": "digit.png", "mimeType": "image/png", "buffer": buffer.getvalue()}
    await page.get_by_label("Or choose a picture").set_input_files(picture)
    if PIXELS.mean() > 127:
        await page.get_by_label("Exchange light and dark").uncheck()
    expected = (await post(service, "/api/models/digits/versions/2/predict", PIXELS.tobytes()))["classes"][0]

    await expect(verdict).to_contain_text(f"{expected['label']}: {expected['probability'] * 100:.1f}")
    assert troubles.seen == []
    await page.context.close()


async def test_a_version_is_rolled_back_from_and_deployed_again(service: Service, browser: Browser) -> None:
    page, troubles = await open_page(service, browser, "#/models/digits/versions/2")
    await action(page, "Roll back").click()
    dialog = page.get_by_role("dialog", name="Roll back from version 2?")
    await dialog.get_by_role("combobox", name="Back to").select_option("1")
    await dialog.get_by_role("button", name="Roll back").click()

    await expect(page.get_by_text("production is version 1 now.")).to_be_focused()
    assert (await service.plane.registry.get_model("digits")).aliases["production"] == 1
    await action(page, "Deploy").click()
    await page.get_by_role("dialog", name="Deploy version 2?").get_by_role("button", name="Deploy").click()
    await expect(page.locator(".heading .chip")).to_have_text("production")
    assert (await service.plane.registry.get_model("digits")).aliases["production"] == 2
    assert troubles.seen == []
    await page.context.close()


async def test_a_version_is_recalibrated_with_what_it_was_asked(service: Service, browser: Browser) -> None:
    for seed in range(20):
        pixels = np.random.default_rng(seed).integers(0, 256, (4, 1, 8, 8), np.uint8)
        await service.ask(pixels, "2", model="digits")
    page, _ = await open_page(service, browser, "#/models/digits/versions/2")
    await action(page, "Recalibrate").click()
    dialog = page.get_by_role("dialog", name="Recalibrate this version?")

    await dialog.get_by_role("button", name="Recalibrate").click()

    await page.get_by_role("link", name="digits / 3").click(timeout=60_000)
    chain = page.get_by_role("list", name="From what is served back to the data")
    await expect(chain).to_contain_text("digits / 2")
    await expect(chain).to_contain_text("unlabelled")
    assert (await service.plane.registry.get_model("digits")).aliases["production"] == 2
    await page.context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
async def test_pictures_of_a_version_fit_their_width(
    theme: Any, width: str, service: Service, browser: Browser
) -> None:
    size = WIDTHS[width]
    how = {"viewport": {"width": size[0], "height": size[1]}, "color_scheme": theme}
    page, _ = await open_page(service, browser, "#/models/digits/versions/2", **how)
    await expect(page.get_by_role("table", name="Times of one batch, by engine")).to_be_visible()
    await draw(page)
    await expect(page.get_by_role("table", name="Classes, the most probable first")).to_be_visible()

    await page.screenshot(path=PICTURES / f"version-{theme}-{width}.png", full_page=True)

    assert await page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert await barriers(page) == []
    if width == "wide":
        assert await unreached(page) == []
    await page.context.close()
