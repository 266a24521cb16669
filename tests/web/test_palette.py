"""The colours of compared jobs can be told apart, also by eyes that lack one kind of cone."""

from __future__ import annotations

import itertools
import math
import re

import pytest

from batchyard.control.web.assets import FOLDER

# Machado, Oliveira, Fernandes: A Physiologically-based Model for Simulation of Color Vision Deficiency (2009),
# severity 1.
EYES = {
    "all cones": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
}
WHOLE = 4
"""Lines from the fifth on are dashed, so a colour need only differ from those of its own half."""
LEAST = 10
"""Of the distance in CIELAB; about 2 can just be noticed side by side."""


def linear(colour: str) -> list[float]:
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]


def lab(rgb: list[float]) -> tuple[float, float, float]:
    """CIELAB under D65 of linear sRGB."""
    r, g, b = (min(1.0, max(0.0, part)) for part in rgb)
    x, y, z = (
        t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116
        for t in (
            (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
            0.2126 * r + 0.7152 * g + 0.0722 * b,
            (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
        )
    )
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_lines_of_one_kind_differ_clearly(theme: str, eyes: str) -> None:
    light, dark = (FOLDER / "style/theme.css").read_text().split("@media", 1)
    hues = re.findall(r"--series-\d: (#[0-9a-f]{6});", light if theme == "light" else dark)
    seen = [lab([sum(a * b for a, b in zip(row, linear(hue), strict=True)) for row in EYES[eyes]]) for hue in hues]

    assert len(hues) == 2 * WHOLE
    for half in (seen[:WHOLE], seen[WHOLE:]):
        for one, other in itertools.combinations(half, 2):
            assert math.dist(one, other) >= LEAST
