"""completion: the script that teaches a shell the command's words."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from batchyard.cli.options import examples

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_BATCHYARD_COMPLETE"
"""How the script asks the command for completions."""


@click.command(
    epilog=examples(
        'eval "$(batchyard completion bash)"                     # this shell only; put it into ~/.bashrc to keep it',
        'eval "$(batchyard completion zsh)"                      # ~/.zshrc',
        "batchyard completion fish > ~/.config/fish/completions/batchyard.fish",
    )
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of SHELL."""
    kind = get_completion_class(shell)
    assert kind is not None  # one of SHELLS
    click.echo(kind(context.find_root().command, {}, "batchyard", VARIABLE).source())
