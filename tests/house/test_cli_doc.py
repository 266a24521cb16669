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


def test_the_json_of_every_job_command_is_documented(tool: ModuleType) -> None:
    from batchyard.cli.main import batchyard

    with_json = {words for words, command in tool.commands(batchyard) if _has_json(command)}
    assert {words for words in with_json if words.split()[0] in ("job", "jobs", "submit")} <= set(tool.JSON)
    assert set(tool.JSON) <= with_json


def test_every_command_and_every_option_says_what_it_does(tool: ModuleType) -> None:
    from batchyard.cli.main import batchyard

    for words, command in tool.commands(batchyard):
        assert command.help, words
        assert [o.name for o in command.params if isinstance(o, click.Option) and not o.help] == [], words


def _has_json(command: click.Command) -> bool:
    return any(option.name == "as_json" for option in command.params)
