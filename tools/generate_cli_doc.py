"""Writes docs/cli.md from the command itself: every sub-command, its options and examples; and docs/cli.schema.json.

With --check it compares.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from batchyard.cli.failures import EXIT_CODES
from batchyard.cli.json_schema import document
from batchyard.cli.main import batchyard

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
SCHEMA = PAGE.with_name("cli.schema.json")

HEAD = f"""# The `batchyard` command

Every command reads where the service is from its flags, then from `BATCHYARD_CONTROL`, `BATCHYARD_INFERENCE`,
`BATCHYARD_TOKEN_FILE` and `BATCHYARD_TLS_CA`, then from `./batchyard-data/control.json` of a running service, then
takes 127.0.0.1:50051 and 127.0.0.1:8001. The flags, the same everywhere, stand with `status` below.

**Output.** A person at a terminal sees tables and colours. A pipe gets one line for each thing, its fields separated
by tabs, without a heading: `batchyard jobs | cut -f1`. `--json` gives JSON, one document a line in a pipe.

**Errors** are two lines on standard error: what is wrong, and what to do. **Exit codes:**

```
{EXIT_CODES}
```

**Completion:** `eval "$(batchyard completion bash)"` in `~/.bashrc`; zsh and fish likewise.

This page is generated from the command by tools/generate_cli_doc.py; a test compares them.
"""

JSON_HEAD = """## What `--json` prints

Messages are those of `proto/batchyard/v1`, with the proto's own field names; 64-bit integers are numbers, times RFC
3339, durations seconds. Fields may be added; none is renamed or removed within a version of the API.
[cli.schema.json](cli.schema.json) is the same as JSON Schema: `commands` has each command's, `$defs` the messages.

| command | JSON |
|---|---|
"""

JSON = {
    "up": "control.json of the service: pid, started, grpc, http, inference_grpc, inference_http, tls, token_file",
    "down": "`stopped` (bool), `processes` (how many were ended)",
    "status": "`control` and `inference` {address, state}, `jobs` {state: count}, `models` [name]",
    "submit": "TrainingJob; with --follow the events of `job watch`",
    "jobs": "[TrainingJob], newest first",
    "job show": "TrainingJob",
    "job watch": "an event a line: `cursor`, `time`, `attempt`, `kind`, and the fields of that kind's message",
    "job explain": "TrainingJobExplanation",
    "job cancel": "TrainingJob",
    "job pause": "TrainingJob",
    "job resume": "TrainingJob",
    "job rerun": "TrainingJob of the new job; with --wait `job` (TrainingJob), `of` (id of the first), `compared`, "
    "`equal` (bool, null when there is nothing to compare), `sha256` [of the first, of the new one]",
    "job tag": "TrainingJob as it is then",
    "job wait": "TrainingJob as it was when the waiting ended",
    "job logs": "an event a line, as `job watch` prints it, of kind `log_line`: `level`, `rank`, `text`",
    "job metrics": "[row] by step: `step`, `attempt`, `time`, and every quantity, such as `train/loss` or "
    "`layers/norm0/p50`; with --format `job`, `format`, `written`",
    "model lineage": "Lineage: `name` (the version asked for) and `versions`, that one first, then its sources, "
    "each once: `version` (ModelVersion: origin, `sources`, certificate, digests, seed, `libraries`, dataset), "
    "`deployment` {`aliases`, `latest`}, and of a trained one `training_job` (TrainingJob with its spec), `attempt`, "
    "`checkpoint` {step, uri, sha256, bytes}",
    "models": "[Model, with `versions`: [ModelVersion], newest first]",
    "model show": "ModelVersion, with `aliases`: [name]",
    "model set": "Model",
    "model shift": "ModelShift",
    "model shadow": "ShadowComparison",
    "model engines": "`conditions` {processor, cores, libraries}, `trials` [{engine, precision, threads, passed, "
    "reason, error, seconds {rows: seconds}}], `chosen` [{up_to, engine, threads}], `measuring` (bool), `measured_on`",
    "model recalibrate": "ModelVersion",
    "model export": "[path of a file that was written]",
    "model import": "ModelVersion",
    "model ensemble": "ModelVersion",
    "alias": "Model",
    "predict": "`model`, `version`, `notes` [what was done to the picture], `rows` [{classes [{class, label, "
    "probability}]}], the most probable first",
    "top": "`control`, `inference` (address, or what is wrong), `counts` {state: jobs}, `active` and `ended` "
    "[TrainingJob], `traffic` [{model, version, requests_per_second, failures_per_second, queue_ms, request_ms, "
    "batch}]; numbers are null where nothing came",
    "doctor": "[finding]: `what`, `health` (good, absent, warning, bad), `found`, `advice`",
}
"""Command -> what its --json prints."""


CONNECTION = ("control", "inference", "token_file", "tls_ca")
"""Options that every command has which talks to a service: shown once, with `status`."""


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command below a group with its words, in the order of `--help`."""
    for name in group.list_commands(click.Context(group)):
        command = group.commands[name]
        words = f"{path} {name}".strip()
        if isinstance(command, click.Group):
            yield from commands(command, words)
        else:
            yield words, command


def section(words: str, command: click.Command) -> str:
    """One command."""
    arguments = " ".join(each.make_metavar(click.Context(command)) for each in command.params if _is_argument(each))
    parts = [f"### `{' '.join(filter(None, ('batchyard', words, arguments)))}`", _prose(command.help)]
    options = (option for option in command.params if isinstance(option, click.Option))
    rows = [_row(option) for option in options if option.name not in CONNECTION or words == "status"]
    if rows:
        parts.append("| option | meaning |\n|---|---|\n" + "\n".join(rows))
    if lines := _examples(command.epilog):
        parts.append("```console\n" + "\n".join(f"$ {line}" for line in lines) + "\n```")
    return "\n\n".join(parts) + "\n"


def _is_argument(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Argument)


def _row(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    given = "" if option.is_flag else f" {option.make_metavar(click.Context(click.Command('')))}"
    default = f" Default: {option.default}." if option.show_default else ""
    text = f"{option.help or ''}{default}".replace("|", "\\|").replace("*", "\\*")
    return f"| {names}{_code(given)} | {text} |"


def _code(given: str) -> str:
    return f" `{given.strip()}`".replace("|", "\\|") if given else ""


def _prose(text: str | None) -> str:
    """Help as Markdown: click's mark for text that keeps its lines becomes a block of code."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    kept = (f"```\n{p.removeprefix(chr(8)).strip(chr(10))}\n```" if p.startswith("\b") else p for p in paragraphs)
    return "\n\n".join(kept)


def _examples(epilog: str | None) -> list[str]:
    lines = (epilog or "").splitlines()
    return [re.sub(r"^  ", "", line) for line in lines if line.startswith("  ")]


def page() -> str:
    """The whole page."""
    found = dict(commands(batchyard))
    printed = JSON_HEAD + "\n".join(f"| `{words}` | {text} |" for words, text in JSON.items())
    return "\n".join((HEAD, "## Commands\n", *(section(*each) for each in found.items()), printed)) + "\n"


def schema() -> str:
    """The JSON Schema's text."""
    return json.dumps(document(), indent=1) + "\n"


def main(arguments: list[str]) -> int:
    """Writes both files, or, with --check, says whether they are fresh."""
    fresh = {PAGE: page(), SCHEMA: schema()}
    if arguments != ["--check"]:
        for path, text in fresh.items():
            path.write_text(text)
        return 0
    stale = [path for path, text in fresh.items() if not path.exists() or path.read_text() != text]
    for path in stale:
        print(f"{path} is not what the command says: run tools/generate_cli_doc.py")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
