"""docs/batchnorm.md names functions that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REFERENCES = sorted(set(re.findall(r"`([\w/]+\.py):(\w+)`", (ROOT / "docs/batchnorm.md").read_text())))


@pytest.mark.parametrize("file", sorted({file for file, _ in REFERENCES}))
def test_every_formula_is_where_the_document_says(file: str) -> None:
    tree = ast.parse((ROOT / "worker/batchyard/nn" / file).read_text())
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert {name for f, name in REFERENCES if f == file} <= defined


def test_the_document_has_references() -> None:
    assert len(REFERENCES) > 25
