"""docs/cli.md against the command."""

import importlib.util
from pathlib import Path
from types import ModuleType

import click
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_cli_doc", ROOT / "tools" / "generate_cli_doc.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_command_says(tool: ModuleType) -> None:
    assert tool.main(["--check"]) == 0, "run tools/generate_cli_doc.py"


def test_every_command_but_two_has_json_and_it_is_documented(tool: ModuleType) -> None:
    from batchyard.cli.json_schema import document
    from batchyard.cli.main import batchyard

    found = dict(tool.commands(batchyard))
    with_json = {words for words, command in found.items() if _has_json(command)}
    assert set(found) - with_json == {"paper", "completion"}, "they write a report and a script"
    assert set(tool.JSON) == with_json
    assert set(document()["commands"]) == with_json


def test_every_command_and_every_option_says_what_it_does(tool: ModuleType) -> None:
    from batchyard.cli.main import batchyard

    for words, command in tool.commands(batchyard):
        assert command.help, words
        assert [o.name for o in command.params if isinstance(o, click.Option) and not o.help] == [], words


def _has_json(command: click.Command) -> bool:
    return any(option.name == "as_json" for option in command.params)
