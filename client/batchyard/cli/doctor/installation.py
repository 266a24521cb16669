"""Is what Batchyard needs installed, and does it fit together? Reads metadata alone: nothing heavy is imported."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from batchyard.cli.doctor.finding import Finding, Patient, absent, bad, good

PYTHONS = ((3, 11), (3, 12))
"""The first and the last version of Python that the tests run on."""
_EXTRAS = {
    "server": "the control plane and the inference plane",
    "worker": "training",
    "fast": "the fast transport of the inference plane",
}
_OPTIONAL = ("fast",)
_REQUIREMENT = re.compile(r"""(?P<name>[A-Za-z0-9._-]+) [^;]* ;\s*extra\s*==\s*['"](?P<extra>[\w-]+)['"]""", re.VERBOSE)


def python(_: Patient) -> Iterator[Finding]:
    """The interpreter."""
    found = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro} at {sys.executable}"
    first, last = PYTHONS
    if sys.version_info[:2] < first:
        yield bad("python", found, f"Install Python {first[0]}.{first[1]} or newer and make a new environment.")
    elif sys.version_info[:2] > last:
        yield absent("python", f"{found}: newer than what is tested", f"Tested up to {last[0]}.{last[1]}.")
    else:
        yield good("python", found)


def extras(_: Patient) -> Iterator[Finding]:
    """What each extra brings, and whether it is there."""
    for extra, purpose in _EXTRAS.items():
        wanted = packages_of(extra)
        missing = [name for name in wanted if version_of(name) is None]
        label = f"extra {extra}"
        if not missing:
            yield good(label, f"{purpose}: " + ", ".join(f"{name} {version_of(name)}" for name in wanted))
            continue
        found = f"{purpose}: without {', '.join(missing)}"
        advice = f"Only where that is wanted: {sys.executable} -m pip install 'batchyard[{extra}]'"
        some = len(missing) < len(wanted) and extra not in _OPTIONAL
        yield bad(label, found, f"Half of it is installed. {advice}") if some else absent(label, found, advice)


def packages_of(extra: str) -> list[str]:
    """The packages that an extra of this installation asks for, by name."""
    matches = filter(None, map(_REQUIREMENT.match, requires("batchyard") or ()))
    return sorted(match["name"] for match in matches if match["extra"] == extra and match["name"] != "batchyard")


def version_of(package: str) -> str | None:
    """The installed version, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
