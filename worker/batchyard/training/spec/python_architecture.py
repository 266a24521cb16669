"""`architecture: python:package.module:factory`: a user's own network, and the rule for whose code may run.

Importing a module runs it. A service runs a package only when whoever started the service has allowed it by name; the
control plane asks when a job is submitted, and every process that builds the network asks again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

PREFIX = "python:"
FORM = "python:package.module:factory"
VARIABLE = "BATCHYARD_ALLOW_PYTHON"
"""The environment variable of processes that build networks: allowed packages, with commas between."""
FLAG = "--allow-python"

_RULE = re.compile(r"python:([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)", re.ASCII)
_PACKAGE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", re.ASCII)


def parts(architecture: str) -> tuple[str, str] | None:
    """Its module and its factory; None where it is not of FORM."""
    found = _RULE.fullmatch(architecture)
    return (found[1], found[2]) if found else None


def is_package(name: str) -> bool:
    """Whether `name` can be a package or a module: identifiers with dots between."""
    return _PACKAGE.fullmatch(name) is not None


def refusal(architecture: str, allowed: Iterable[str]) -> str | None:
    """Why a service that allows these packages does not run `architecture`; None where it does, or where it is no
    user's network. A package allows the modules below it.
    """
    if not architecture.startswith(PREFIX):
        return None
    named = parts(architecture)
    if named is None:
        return f"{architecture!r} given; expected {FORM}"
    module = named[0]
    if any(module == package or module.startswith(f"{package}.") for package in allowed):
        return None
    package = module.partition(".")[0]
    how = f"start the service with {FLAG} {package}, and have the package installed where its workers run"
    return f"{architecture!r} given; this service runs no code of {package!r}. To allow it, {how}"
