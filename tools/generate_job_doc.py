"""Writes docs/job-spec.md from the job spec's dataclasses: every key, its kind, default and rule. With --check it only
compares.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from batchyard.training import spec
from batchyard.training.spec import TrainingJobSpec

PAGE = Path(__file__).parents[1] / "docs" / "job-spec.md"

HEAD = """# The job file

A training job is a YAML (or JSON) file of these keys; `batchyard submit job.yaml` reads it, and `--set KEY=VALUE`
replaces one value by its dotted path. A key that is left out has its default. Everything wrong with a file is told at
once, before anything runs: a key that does not exist, with the nearest one that does; a value of the wrong kind or out
of its range; a key that the rest of the file leaves without effect; and keys that are impossible together.

This page is generated from the code by tools/generate_job_doc.py; a test compares them.

## A whole file

```yaml
name: digits
model: {architecture: mlp, hidden: [64, 64], activation: relu}
data: {dataset: digits, batch_size: 60}
epochs: 20
optimizer: {name: adamw, learning_rate: 0.003, weight_decay: 0.05}
schedule: {name: cosine, warmup_steps: 50}
label_smoothing: 0.1
clip_norm: 1.0
ema_decay: 0.99
stop_at: {accuracy: 0.99}
evaluate: {every_steps: 100}
publish: {model: digits, alias: production}
seed: 1
```
"""

TAIL = """## What the loop does with them

One step, with every option on, in order:

1. The global batch is cut into `accumulate` micro-batches, and each of those is shared out over the workers. Batch
   normalisation takes its statistics over one micro-batch of all workers, so any number of workers gives what one
   gives; the gradient is the mean over the whole global batch, however uneven the shares are. Compared with one large
   batch, only the statistics change: they are those of `batch_size / accumulate` samples, and the running statistics
   move once a micro-batch.
2. The network runs in `precision`: under bf16 and fp16, convolutions and matrix products compute in that type, the
   rest, the weights and all sums in fp32. In fp16 the loss is scaled; a step whose gradients overflow is left out and
   the scale halved, as torch.amp.GradScaler does it, without the host waiting (but for lars).
3. Gradients add up over all workers, and are then clipped to `clip_norm` together.
4. The optimiser steps, at `optimizer.learning_rate` times the factor of the schedule. Weights decay; biases, gamma and
   beta do not.
5. The averages of weights and running statistics (`ema_decay`) move. Evaluation uses them, and the last ones are what
   is published; `publish.statistics: alg2` then takes the statistics of the averaged network itself.

Evaluation and publishing always compute in fp32.
"""


def page() -> str:
    """The whole page."""
    sections = [f"## {title}\n\n{text}\n\n{table}" for title, text, table in _sections(TrainingJobSpec, "")]
    return "\n".join([HEAD, *sections, TAIL])


def _sections(kind: type, path: str) -> Iterator[tuple[str, str, str]]:
    """Title, text and table of a mapping, then of those within it."""
    meanings, hints = _meanings(kind), typing.get_type_hints(kind)
    lines = ["| key | kind | default | meaning |", "|---|---|---|---|"]
    inner = []
    for field in dataclasses.fields(kind):
        hint = _present(hints[field.name])
        name = f"{path}{field.name}"
        if dataclasses.is_dataclass(hint):
            inner.append((typing.cast(type, hint), f"{name}."))
            below = f"[below](#{name.replace('.', '')}). {meanings[field.name]}".strip()
            lines.append(_row(name, "mapping", field, below))
        else:
            lines.append(_row(name, _kind(hint), field, meanings[field.name]))
    title = f"`{path.rstrip('.')}`" if path else "Keys"
    yield title, inspect.cleandoc(kind.__doc__ or ""), "\n".join(lines) + "\n"
    for part, part_path in inner:
        yield from _sections(part, part_path)


def _row(name: str, kind: str, field: dataclasses.Field[Any], meaning: str) -> str:
    return f"| `{name}` | {kind} | {_default(field)} | {_with_choices(meaning).strip()} |"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return "" if field.default is None else f"`{_yaml(field.default)}`"
    return "" if field.default_factory is not dataclasses.MISSING else "required"


def _yaml(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _present(hint: Any) -> Any:
    """The type of a value that is given."""
    if isinstance(hint, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def _kind(hint: Any) -> str:
    words = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    if typing.get_origin(hint) is tuple:
        return f"list of {words[typing.get_args(hint)[0]]}s"
    return words[hint]


def _with_choices(meaning: str) -> str:
    """The meaning, with the words that a list of choices stands for."""

    def choices(found: re.Match[str]) -> str:
        words = ", ".join(f"`{word}`" for word in getattr(spec, found[1]))
        return f"One of {words}"

    return re.sub(r"One of ([A-Z_]+)\b", choices, meaning).replace("|", "\\|")


def _meanings(kind: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, on one line; empty for one that has none."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    found = dict.fromkeys((field.name for field in dataclasses.fields(kind)), "")
    for before, after in zip(definition.body, definition.body[1:], strict=False):
        is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and is_text:
            found[before.target.id] = " ".join(str(typing.cast(Any, after).value.value).split())
    return found


def main(arguments: list[str]) -> int:
    """Writes the page, or, with --check, says whether it is fresh."""
    fresh = page()
    if arguments == ["--check"]:
        if PAGE.exists() and PAGE.read_text() == fresh:
            return 0
        print(f"{PAGE} is not what the code says: run tools/generate_job_doc.py")
        return 1
    PAGE.write_text(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
