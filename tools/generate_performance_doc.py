"""Writes docs/performance.md from the results in bench/results: what was compared, the ratio, its bar and whether it
holds. With --check it only compares.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "bench" / "results"

FIRST = ("nn", "serving", "training")
LAYERS = ("batch_norms", "folded", "affine", "refused")
"""What became of a network's BN layers, where a row is one network."""

HEAD = """# What was measured

Every number here is from a script in [bench/](../bench), which writes it to [bench/results/](../bench/results); this
page is generated from there by tools/generate_performance_doc.py, and a test compares them. A ratio is that of our
median to the other's, both measured by turns in one run on one machine: compare ratios, not machines. Behind it is the
spread of the single rounds' ratios, half the distance between the quartiles. Rows without a bar are in the files only.
What misses its bar stays in the table and says so.

"""


def main(arguments: list[str]) -> int:
    """Writes the page, or says whether it is out of date. Returns the exit status."""
    page = HEAD + "\n".join(_sections())
    if "--check" in arguments:
        return 0 if PAGE.read_text() == page else 1
    PAGE.write_text(page)
    return 0


def _sections() -> Iterator[str]:
    for path in sorted(RESULTS.glob("*.json"), key=lambda path: (path.stem not in FIRST, path.stem)):
        found = json.loads(path.read_text())
        rows = [row for row in found.get("rows", []) if row["bar"] is not None]
        if rows:
            yield f"## {_subject(found['bench'])}\n\n{_origin(path, found)}\n\n{_table(rows)}\n"


def _subject(bench: str) -> str:
    """The first sentence of the script's own description, up to the command."""
    description = ast.get_docstring(ast.parse((ROOT / "bench" / f"{bench}.py").read_text())) or bench
    return re.split(r":\s+(?:`|python)|\.\s", description + " ", maxsplit=1)[0].replace("\n", " ").rstrip(".")


def _origin(path: Path, found: dict[str, Any]) -> str:
    """Which file, machine, day and versions; what else there is to know."""
    versions = ", ".join(f"{name} {version}" for name, version in found.get("versions", {}).items())
    words = [f"[{path.name}](../bench/results/{path.name}): {found['machine']}, {found['date']}, {versions}."]
    if "note" in found:
        words.append(str(found["note"]))
    words += [f"Left out: {name} ({why})." for name, why in (found.get("left_out") or {}).items()]
    return "\n".join(words)


def _table(rows: list[dict[str, Any]]) -> str:
    layers = [each for each in LAYERS if each in rows[0]]
    heads = ["what", *layers, "ours", "the other", "ratio", "bar", ""]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for row in rows:
        spread = "" if row.get("spread") is None else f" +- {row['spread']:.2g}"
        other = f"{_number(row['peer_value'])} ({row['peer']})"
        verdict = "holds" if row["holds"] else "**missed**"
        ours = f"{_number(row['ours'])} {row['unit']}"
        counts = [str(row[each]) for each in layers]
        lines.append(
            _line([row["name"], *counts, ours, other, f"{row['ratio']:.4g}{spread}", f"{row['bar']:g}", verdict])
        )
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
