"""Who may import whom: the picture in docs/architecture.md, held against every import statement in the tree."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / folder / "batchyard" for folder in ("proto", "worker", "server", "client")]

ROOMS: dict[str, set[str]] = {
    "v1": set(),
    "oip": set(),
    "failpoints": set(),
    "nn": set(),
    "artifact": {"failpoints"},
    "models": {"nn", "training.spec"},
    "data": {"nn"},
    "training": {"nn", "models", "data", "artifact", "failpoints"},
    "cluster": {"training", "failpoints"},
    "endpoint": set(),
    "control": {"v1", "oip", "endpoint", "artifact", "cluster", "failpoints", "training.spec", "training.events"},
    "serving": {"v1", "oip", "endpoint", "artifact"},
    "client": {"v1", "oip"},
    "cli": {"client", "v1"},
}
"""Room -> rooms (or single modules of rooms) that it may import, itself aside."""

HEAVY: dict[str, set[str]] = {
    "torch": {"nn", "models", "data", "training", "serving.engines"},
    "ray": {"cluster"},
    "grpc": {"v1", "oip", "endpoint", "control", "serving", "client", "cli"},
    "sqlalchemy": {"control"},
    "onnxruntime": {"serving", "training"},
    "openvino": {"serving.engines"},
    "aiohttp": {"endpoint", "control", "serving"},
}
"""Library -> the rooms, or single packages of rooms, that alone may import it."""


def room_of(path: Path) -> str:
    base = next(source for source in SOURCES if path.is_relative_to(source))
    return path.relative_to(base).parts[0]


def module_of(path: Path) -> str:
    """Dotted, without the leading batchyard."""
    base = next(source for source in SOURCES if path.is_relative_to(source))
    return ".".join(path.relative_to(base).with_suffix("").parts)


def modules() -> list[Path]:
    return sorted(path for source in SOURCES for path in source.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports at run time, wherever in it they stand; type-only imports do not count."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for part in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; this house writes batchyard.x.y"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_room_is_in_the_picture() -> None:
    assert {room_of(path) for path in modules()} == set(ROOMS)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_room_may(path: Path) -> None:
    room = room_of(path)
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "batchyard":
            allowed = (f"{rest}.".startswith(f"{other}.") for other in (room, *ROOMS[room]))
            assert any(allowed), f"{room} may not import {name}"
        elif top in HEAVY:
            assert any(f"{module_of(path)}.".startswith(f"{it}.") for it in HEAVY[top]), f"{room} may not import {top}"


def test_no_folder_named_batchyard_is_a_package_of_its_own() -> None:
    assert not [source / "__init__.py" for source in SOURCES if (source / "__init__.py").exists()]
    assert not (ROOT / "proto" / "__init__.py").exists()


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import batchyard.control.app", {"torch"}),
        ("import batchyard.serving.app", {"torch", "ray", "openvino", "onnx"}),
        ("import batchyard.client", {"torch", "ray", "aiohttp", "sqlalchemy"}),
        ("import batchyard.cli.main", {"torch", "ray", "numpy", "rich"}),
        ("import batchyard.nn", {"ray", "grpc"}),
        ("import batchyard.training.spec, batchyard.training.events", {"torch", "numpy"}),
        ("import batchyard.artifact.reader", {"torch"}),
    ],
)
def test_what_a_process_loads_stays_light(statement: str, absent: set[str]) -> None:
    assert not loaded_by(statement) & absent
