"""Sparklines: scale, gaps, and a course of any length in bounded memory."""

import math

import pytest

from batchyard.cli.sparkline import BLOCKS, Course, sparkline


@pytest.mark.parametrize(
    ("values", "width", "line"),
    [
        ([], 5, ""),
        ([3.0], 5, "▁"),
        ([1, 1, 1], 5, "▁▁▁"),
        (list(range(8)), 8, BLOCKS),
        ([4, 2, 0.5], 5, "█▄▁"),
        ([0, math.nan, 1], 5, "▁ █"),
        ([math.inf, 0, 7], 5, " ▁█"),
        ([0, 0, 7, 7], 2, "▁█"),
    ],
    ids=["none", "one", "level", "scale", "falling", "nan", "infinite", "shrunk"],
)
def test_blocks_follow_the_values(values: list[float], width: int, line: str) -> None:
    assert sparkline(values, width) == line


@pytest.mark.parametrize("count", [3, 100, 511, 512, 5000, 100_000])
def test_a_course_of_any_length_keeps_its_shape(count: int) -> None:
    course = Course(capacity=64)
    for i in range(count):
        course.add(abs(2 * i / (count - 1) - 1))  # a valley
    line = course.line(9)
    assert line[0] in "▇█"
    assert line[-1] in "▆▇█"  # the last values may still wait for their mean
    assert min(line, key=BLOCKS.index) == line[len(line) // 2] == "▁"
