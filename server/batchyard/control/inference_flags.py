"""What an operator may say to the inference plane beside the control plane: handed on to it as it stands."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self


@dataclass(frozen=True, kw_only=True)
class InferenceFlags:
    """Each field is a flag of `python -m batchyard.serving`, which knows its meaning and default. None: not said.

    A field's metadata is what argparse is told of it.
    """

    shift_sample_rate: float | None = field(
        default=None,
        metadata={
            "help": "share of its requests that covariate shift is measured on, 0 for none",
            "type": float,
            "metavar": "SHARE",
        },
    )
    engines: str | None = field(
        default=None,
        metadata={"help": "engines that may serve (default: all that are installed)", "metavar": "NAME,..."},
    )
    shared_memory: str | None = field(
        default=None,
        metadata={
            "help": "keys in /dev/shm that inference clients may register, such as 'client-*' (default: none)",
            "metavar": "PATTERN",
        },
    )
    model_control: Literal["none", "explicit"] | None = field(
        default=None,
        metadata={
            "help": "explicit: inference clients may load and unload models",
            "choices": ("none", "explicit"),
        },
    )
    trace_dir: Path | None = field(
        default=None,
        metadata={"help": "where inference clients may have traces written", "type": Path, "metavar": "DIR"},
    )
    otlp_endpoint: str | None = field(
        default=None,
        metadata={"help": "OpenTelemetry collector for spans of requests (default: none)", "metavar": "URL"},
    )
    otlp_sample_rate: float | None = field(
        default=None,
        metadata={"help": "share of the requests that become spans", "type": float, "metavar": "SHARE"},
    )
    triton_error_codes: bool | None = field(
        default=None,
        metadata={
            "help": "UNAVAILABLE for a full queue and for a request that expired in it, as Triton says",
            "action": "store_true",
        },
    )

    @classmethod
    def add_to(cls, parser: argparse.ArgumentParser) -> None:
        """Adds every flag."""
        for each in dataclasses.fields(cls):
            parser.add_argument(_name(each.name), default=None, **each.metadata)

    @classmethod
    def read(cls, given: argparse.Namespace) -> Self:
        """The flags as they were given."""
        return cls(**{each.name: getattr(given, each.name) for each in dataclasses.fields(cls)})

    def words(self) -> list[str]:
        """Those that were given, as words of a command line."""
        said = {_name(each.name): getattr(self, each.name) for each in dataclasses.fields(self)}
        return [
            word
            for flag, value in said.items()
            if value is not None and value is not False
            for word in ((flag,) if value is True else (flag, str(value)))
        ]


def _name(field_name: str) -> str:
    return f"--{field_name.replace('_', '-')}"
