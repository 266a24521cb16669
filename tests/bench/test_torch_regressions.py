"""The table of issues beside torch's own implementation: ours is right in every row."""

from __future__ import annotations

import pytest

from batchyard.nn import SyncBatchNorm
from bench.torch_regressions import CASES, TORCHS_FOLDERS, Case, attempt, by_fold


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_ours_is_right_in_every_case(case: Case) -> None:
    assert attempt(case, SyncBatchNorm if case.layer else by_fold) == "right"


def test_the_table_tells_an_implementation_that_is_wrong() -> None:
    (twice,) = [case for case in CASES if case.title == "a convolution used twice"]
    assert attempt(twice, TORCHS_FOLDERS["fx fuse"]) == "WRONG"
    assert attempt(twice, TORCHS_FOLDERS["fuse_conv_bn_eval"]).startswith("TypeError: folds one pair")
