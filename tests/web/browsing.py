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
