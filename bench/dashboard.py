"""Seconds until the dashboard's pages are drawn, with 1,000 jobs and 10^6 metric points in the database.

    python -m bench.dashboard [--rounds 5] [--data FOLDER]

A control plane of its own serves the data that bench/dashboard_data.py makes (or FOLDER, made before, so that the
machine can be quiet while pages are timed). Headless Chromium opens each page in a new context, nothing cached. The
time is that of the first frame after everything that a reader waits for is there: rows, charts, the words of a queue;
it is taken inside the page, from the start of the navigation.

Predicted before measuring, on 2 cores: 0.4 s for lists, also where they are searched and sorted by what is in
1,000 rows of JSON; 0.6 s for a job of 1,000 points; 0.8 s for one of 100,000 or 1,000,000, of which 600 are drawn.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, async_playwright

from batchyard.cluster.executor import Capacity
from batchyard.cluster.fake_executor import FakeExecutor
from batchyard.control.app import ControlPlane
from batchyard.control.settings import Settings
from bench import dashboard_data, report

CHROMIUM = "/usr/bin/chromium"
BAR_S = 1.0
EIGHT = ",".join(f"run-{n:04d}" for n in range(101, 109))
ROWS = "document.querySelectorAll('tbody tr').length >= 50"
CHARTS = "document.querySelectorAll('.chart canvas').length >= {}"
LAST = " && [...document.querySelectorAll('.chart')].some(c => c.getAttribute('aria-label').includes('at step {:,}:'))"
PAGES = {
    "jobs, the newest 50 of 1,000": ("#/jobs", ROWS),
    "jobs, the 50 of 1,000 that a search and a sort give": ("#/jobs?search=run&sort=loss&rising=true", ROWS),
    "a job of 1,000 points": ("#/jobs/run-0100", CHARTS.format(9) + LAST.format(20_020)),
    "a job of 100,000 points": (f"#/jobs/{dashboard_data.LONG_JOB}", CHARTS.format(9) + LAST.format(2_000_000)),
    "a job of 1,000,000 points": (f"#/jobs/{dashboard_data.LONGEST_JOB}", CHARTS.format(9) + LAST.format(20_000_000)),
    "8 jobs of 1,000 points compared": (f"#/compare/{EIGHT}", CHARTS.format(2)),
    "queue, the first 50 of 100": ("#/queue", ROWS),
}
"""Page -> its address, and what is true once everything is there."""
WATCH = """condition => {
    window.drawn = new Promise(resolve => {
        const look = new MutationObserver(() => {
            if (!eval(condition)) return;
            look.disconnect();
            requestAnimationFrame(() => setTimeout(() => resolve(performance.now() / 1000)));
        });
        look.observe(document, { childList: true, subtree: true, attributes: true });
    });
}"""


async def seconds(browser: Browser, url: str, condition: str) -> float:
    """From the start of the navigation to the first frame in which `condition` holds."""
    context = await browser.new_context(viewport={"width": 1280, "height": 900}, bypass_csp=True)
    page = await context.new_page()
    await page.add_init_script(f"({WATCH})({condition!r})")
    await page.goto(url)
    taken = float(await page.evaluate("window.drawn"))
    await context.close()
    return taken


@asynccontextmanager
async def service(folder: Path) -> AsyncIterator[str]:
    """The URL of a control plane with this data folder; what waits in its queue stays there."""
    address = "127.0.0.1:0"
    settings = Settings(data_dir=folder, grpc=address, http=address, inference=False, executor="local")
    cluster = FakeExecutor()
    cluster.has = Capacity(workers=0, gpus=0)
    plane = ControlPlane(settings, executor=cluster)
    try:
        await plane.start()
        yield f"http://{plane.http_address}"
    finally:
        await plane.stop()


async def measure(folder: Path, rounds: int) -> list[report.Row]:
    """A row for each page."""
    found: dict[str, list[float]] = {name: [] for name in PAGES}
    async with service(folder) as url, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        await seconds(browser, url, "true")  # the browser's own first page
        for _ in range(rounds):
            for name, (path, condition) in PAGES.items():
                found[name].append(await seconds(browser, f"{url}/{path}", condition))
        await browser.close()
    return [_row(name, times) for name, times in found.items()]


def _row(name: str, times: list[float]) -> report.Row:
    name = f"{name}, median of {len(times)}, slowest {max(times):.2f} s"
    return report.Row(name=name, ours=statistics.median(times), peer="bar", peer_value=BAR_S, unit="s", bar=1.0)


def main() -> None:
    """Measures, prints the table and writes the JSON."""
    parser = report.arguments(__doc__, "dashboard", rounds=5)
    parser.add_argument("--data", type=Path, help="where the data is, or is to be kept (default: made and removed)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batchyard-bench-") as scratch:
        folder = given.data or Path(scratch)
        if not (folder / dashboard_data.DATABASE).exists():
            dashboard_data.make(folder)
        rows = asyncio.run(measure(folder, given.rounds))
    report.publish("dashboard", rows, ("aiohttp", "playwright"), given.json)


if __name__ == "__main__":
    main()
