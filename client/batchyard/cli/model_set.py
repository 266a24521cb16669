"""model set: how every inference plane queues and batches a model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from batchyard.cli.names import model_name
from batchyard.cli.options import Connection, as_json, connects, examples
from batchyard.cli.output import print_facts, print_json, share

if TYPE_CHECKING:
    from batchyard.client import Model

DEFAULT = "default"
"""The word that gives a setting its default again."""
UNITS = {"us": 1, "ms": 1000, "s": 1_000_000}


class OrDefault(click.ParamType):  # type: ignore[type-arg]  # generic in the stubs alone
    """A value as another type reads it, or the word `default`, which becomes ()."""

    name = "value"

    def __init__(self, convert: Any) -> None:
        self._convert = convert

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """The value, or () for `default`."""
        if value == DEFAULT or not isinstance(value, str):
            return () if value == DEFAULT else value
        try:
            return self._convert(value)
        except (ValueError, KeyError) as error:
            self.fail(str(error.args[0]), parameter, context)


def microseconds(text: str) -> int:
    """`500us`, `2ms` or `1.5s` in microseconds. Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s)", text)
    if found is None:
        raise ValueError(f"{text!r} given; expected a time, for example 500us, 2ms or 1.5s")
    return round(float(found[1]) * UNITS[found[2]])


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{text!r} given; expected a number or `{DEFAULT}`")
    return int(text)


def percentage(text: str) -> float:
    """`10%` or `0.1` as a share. Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", text)
    value = float(found[1]) / (100 if found[2] else 1) if found else -1.0
    if not 0 <= value <= 1:
        raise ValueError(f"{text!r} given; expected a share, for example 10% or 0.1")
    return value


def _numbers(text: str) -> list[int]:
    return [_number(part.strip()) for part in text.split(",")]


def _choice(**words: Any) -> Any:
    def convert(text: str) -> Any:
        if text not in words:
            raise ValueError(f"{text!r} given; expected {', '.join(words)} or `{DEFAULT}`")
        return words[text]

    return convert


OPTIONS: tuple[tuple[str, str, str, Any, str], ...] = (
    ("--max-batch", "max_batch_size", "ROWS", _number, "Rows in one batch."),
    ("--queue-delay", "max_queue_delay_microseconds", "TIME", microseconds, "How long a request waits for company."),
    ("--preferred-sizes", "preferred_batch_sizes", "N,N,..", _numbers, "Batch sizes to aim at."),
    ("--queue-rows", "max_queue_rows", "ROWS", _number, "Rows that may wait."),
    ("--priority-levels", "priority_levels", "N", _number, "Levels of priority, 1 the highest."),
    ("--default-priority", "default_priority_level", "N", _number, "Level of requests that name none."),
    ("--timeout", "default_timeout_microseconds", "TIME", microseconds, "How long a request may wait."),
    ("--timeout-override", "allow_timeout_override", "yes|no", _choice(yes=True, no=False),
     "Whether requests may bring their own timeout."),
    ("--timeout-action", "timeout_action", "reject|delay", _choice(reject="REJECT", delay="DELAY"),
     "What becomes of a request that is late."),
    ("--precision", "precision", "fp32|bf16", _choice(fp32="FP32", bf16="BF16"),
     "What its engines may compute in; bf16 is faster on CPUs and GPUs made for it, and less exact."),
    ("--shadow-share", "shadow_share", "SHARE", percentage,
     "Of the requests: what the version with the alias `shadow` gets copies of."),
)  # fmt: skip
"""Flag, field of ServingSettings, what its value is called, how it is read, help."""


def _flags(command: Any) -> Any:
    for flag, field, metavar, convert, text in reversed(OPTIONS):
        command = click.option(flag, field, metavar=metavar, type=OrDefault(convert), help=text)(command)
    return command


@click.command(
    "set",
    epilog=examples(
        "batchyard model set mnist --max-batch 64 --queue-delay 2ms --preferred-sizes 8,16,64",
        "batchyard model set mnist --priority-levels 3 --timeout 500ms --timeout-action delay",
        "batchyard model set mnist --queue-delay default",
    ),
)
@model_name("name", version=False)
@_flags
@as_json
@connects()
def set_model(name: str, as_json: bool, connection: Connection, **given: Any) -> None:
    """Change how MODEL is queued and batched.

    The inference planes follow at once, and answer all the while. `default` gives a setting its default again.
    """
    from batchyard.client import ServingSettings, plain

    named = {field: value for field, value in given.items() if value is not None}
    if not named:
        raise click.UsageError(f"no setting given; expected some of {', '.join(option[0] for option in OPTIONS)}")
    values = {field: value for field, value in named.items() if value != ()}
    with connection.open() as client:
        changed = client.set_serving_settings(name, ServingSettings(**values), list(named))
    if as_json:
        print_json(plain(changed))
    else:
        print_facts(setting_facts(changed) or [("settings", "all at their defaults")])


def setting_facts(model: Model) -> list[tuple[str, str]]:
    """Label and value of each setting that is not at its default."""
    settings = model.serving_settings
    facts = [(flag[2:].replace("-", " "), field) for flag, field, *_ in OPTIONS]
    known = {field.name: value for field, value in settings.ListFields()}
    return [(label, _shown(field, known[field], settings)) for label, field in facts if field in known]


def _shown(field: str, value: Any, settings: Any) -> str:
    if field.endswith("_microseconds"):
        unit = next(unit for unit in ("s", "ms", "us") if value % UNITS[unit] == 0)
        return f"{value // UNITS[unit]} {unit}"
    if field == "preferred_batch_sizes":
        return ", ".join(map(str, value))
    if field == "shadow_share":
        return share(value)
    if field == "timeout_action":
        return str(settings.TimeoutAction.Name(value)).lower()
    if field == "precision":
        return str(settings.Precision.Name(value)).lower()
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
