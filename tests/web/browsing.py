"""Headless Chromium, and what a page may not do in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.async_api import Page

from batchyard.control.records import Job

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PICTURES = Path(__file__).parents[2] / "test-output" / "dashboard"
WIDTHS = {"wide": (1280, 900), "narrow": (390, 844)}
AXE = (Path(__file__).parent / "vendor/axe-core/axe.min.js").read_text()
"""https://github.com/dequelabs/axe-core; into the page it comes by the debugger, not by the page's policy."""


class Troubles:
    """What a page complained of; nothing it did may show here."""

    def __init__(self, page: Page, site: str) -> None:
        self.seen: list[str] = []
        page.on("console", lambda m: self.seen.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.seen.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(site) else self.seen.append(f"asked {r.url}"))


async def ink(page: Page, canvas: int = 0) -> int:
    """How many pixels of a chart are drawn."""
    script = """n => {
        const c = document.querySelectorAll(".chart canvas")[n];
        const copy = new OffscreenCanvas(c.width, c.height).getContext("2d", { willReadFrequently: true });
        copy.drawImage(c, 0, 0);
        const d = copy.getImageData(0, 0, c.width, c.height).data;
        let drawn = 0;
        for (let i = 3; i < d.length; i += 4) drawn += d[i] > 0;
        return drawn;
    }"""
    return int(await page.evaluate(script, canvas))


def row(page: Page, job: Job) -> Any:
    return page.get_by_role("row").filter(has_text=job.id)


async def barriers(page: Page) -> list[str]:
    """What keeps people from using the page as it stands, by what axe-core applies: WCAG A and AA, good practice."""
    await page.evaluate(f"{AXE}; 0")
    found = await page.evaluate("axe.run({ resultTypes: ['violations'] })")
    return [
        f"{violation['id']}: {node['target']}: {node['failureSummary']}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


async def unreached(page: Page) -> list[str]:
    """What can be used on the page and does not get the focus by the Tab key."""
    usable = "a[href], button, input, select, textarea, [tabindex='0']"
    count = int(
        await page.evaluate(
            """usable => {
                window.toReach = [...document.querySelectorAll(usable)].filter(n => !n.disabled && n.checkVisibility());
                document.activeElement.blur();
                return window.toReach.length;
            }""",
            usable,
        )
    )
    for _ in range(2 * count + 4):  # from wherever the focus was, through the browser's own, once round
        await page.keyboard.press("Tab")
        left = "(window.toReach = window.toReach.filter(n => n !== document.activeElement)).length"
        if not await page.evaluate(left):
            break
    return list(await page.evaluate("window.toReach.map(n => n.outerHTML.slice(0, 120))"))
