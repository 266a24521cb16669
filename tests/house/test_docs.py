"""What the pages of docs/ and the README show: commands that the command takes, job keys that exist, links that lead
somewhere. Nothing is run here.
"""

import re
import shlex
from pathlib import Path

import click
import pytest

from batchyard.cli.main import batchyard
from batchyard.client import read_job
from batchyard.serving.__main__ import _parser as serving_parser

ROOT = Path(__file__).parents[2]
PAGES = {str(page.relative_to(ROOT)): page.read_text() for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]}
SHOWN = re.compile(r"^(?:\$ | {4,})((?:batchyard|python -m batchyard\.serving) (?:[^\n]*\\\n)*[^\n]*)", re.MULTILINE)


def lines(page: str) -> list[str]:
    """The command lines that a page shows, each without what follows a pipe, >, &&, ; or #."""
    shown = (line.replace("\\\n", " ") for line in SHOWN.findall(PAGES[page]))
    return [re.split(r" [|>] | && |;|\s#", line)[0].strip() for line in shown]


def parse(words: list[str]) -> None:
    """Has the command take its arguments, without running it. Raises UsageError."""
    command: click.Command = batchyard
    while isinstance(command, click.Group):
        name = words.pop(0)
        found = command.get_command(click.Context(command), name)
        if found is None:
            raise click.UsageError(f"no command {name}")
        command = found
    command.make_context("batchyard", words)


def refusal(line: str) -> str:
    """What the command that stands there says of its arguments; empty when it takes them."""
    words = shlex.split(line)
    try:
        if words[0] == "python":
            serving_parser().parse_args(words[3:])
        else:
            parse(words[1:])
    except (click.UsageError, SystemExit) as error:
        return f"{line}: {error}"
    return ""


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_are_shown_are_commands_that_there_are(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click.Path, "convert", lambda _, value, *__: value)  # no file of an example need be here
    assert [said for said in map(refusal, lines(page)) if said] == []


@pytest.mark.parametrize("page", PAGES)
def test_job_keys_that_are_shown_exist(page: str) -> None:
    for block in re.findall(r"```yaml\n(.*?)```", PAGES[page], re.DOTALL):
        read_job(block)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", PAGES[page])
    folder = (ROOT / page).parent
    assert [link for link in links if "://" not in link and not (folder / link).exists()] == []


def test_the_readme_leads_to_every_page() -> None:
    pages = [page for page in PAGES if re.fullmatch(r"docs/[a-z-]+\.md", page)]
    assert [page for page in pages if f"]({page})" not in PAGES["README.md"]] == []
