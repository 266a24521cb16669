"""The page's own files: nothing inline, nothing from elsewhere, vendored files as noted, text that can be read."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest

from batchyard.control.web.assets import FOLDER, Assets


def test_the_page_has_no_inline_script_or_style_and_names_no_other_host() -> None:
    index = (FOLDER / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", index)
    for file in [*FOLDER.glob("js/*.js"), *FOLDER.glob("style/*.css"), FOLDER / "index.html"]:
        text = re.sub(r"^\s*(//|\*|/\*).*$", "", file.read_text(), flags=re.MULTILINE)
        text = text.replace('"http://www.w3.org/2000/svg"', "")  # a name, not an address
        assert not re.search(r"(https?:)?//[a-z0-9-]+\.", text), file
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            file
        )


def test_the_page_names_every_script_so_that_all_are_asked_for_at_once() -> None:
    page = Assets()._assets["index.html"].body.decode()

    named = re.findall(r'<link rel="modulepreload" href="/static/([^"]+)">', page)
    scripts = {file.relative_to(FOLDER).as_posix() for file in FOLDER.glob("js/*.js")}
    assert set(named) == {"vendor/uplot/uPlot.esm.js", *scripts}


def test_vendored_files_are_those_that_their_note_names() -> None:
    note = (FOLDER / "vendor/README.md").read_text()
    named = dict(re.findall(r"`(\w+/[\w.-]+\.(?:js|css|woff2))` \| ([0-9a-f]{64})", note))
    files = {
        p.relative_to(FOLDER / "vendor").as_posix() for p in (FOLDER / "vendor").glob("*/*") if p.name != "LICENSE"
    }

    assert named.keys() == files
    for name, digest in named.items():
        summed = subprocess.run(["sha256sum", FOLDER / "vendor" / name], capture_output=True, text=True, check=True)
        assert summed.stdout.split()[0] == digest
        assert (FOLDER / "vendor" / name).with_name("LICENSE").exists()


def contrast(one: str, other: str) -> float:
    """By WCAG 2.2, "relative luminance" and "contrast ratio"."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def mixed(hue: str, ground: str, share: float) -> str:
    parts = [round(int(hue[i : i + 2], 16) * share + int(ground[i : i + 2], 16) * (1 - share)) for i in (1, 3, 5)]
    return "#" + "".join(f"{part:02x}" for part in parts)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read_in_both_themes(theme: str) -> None:
    light, dark = (FOLDER / "style/theme.css").read_text().split("@media", 1)
    names: dict[str, Any] = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6}|\d+%);", light if theme == "light" else dark))

    for ground in ("page", "surface", "sunken"):
        for text in ("ink", "soft"):
            assert contrast(names[text], names[ground]) >= 4.5, (text, ground)
    for name, hue in names.items():
        if name.startswith("state-"):
            pill = mixed(hue, names["surface"], int(names["wash"].rstrip("%")) / 100)
            assert contrast(hue, pill) >= 4.5, name
        if name.startswith("series-"):
            assert contrast(hue, names["surface"]) >= 3, name
    assert contrast(names["on-accent"], names["accent"]) >= 4.5
