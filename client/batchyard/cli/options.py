"""Flags that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from batchyard.client import Client

Command = Callable[..., Any]

RETRY_FOR = 2.0
"""Seconds that a command tries to reach a service: long enough for a hiccup, short enough for a person."""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """The connection flags of one call; what is None is read from elsewhere (client.settings)."""

    control: str | None = None
    inference: str | None = None
    token_file: str | None = None
    tls_ca: str | None = None

    def open(self, *, timeout: float = 30.0, retry_for: float = RETRY_FOR) -> Client:
        """A client; close it after use. Seconds as Client's. Raises ConfigurationError."""
        from batchyard.client import Client, read_settings

        found = read_settings(
            control=self.control, inference=self.inference, token_file=self.token_file, tls_ca=self.tls_ca
        )
        addresses = (found.control, found.inference)
        return Client(*addresses, token=found.token, tls_ca=found.tls_ca, timeout=timeout, retry_for=retry_for)


_CONTROL = click.option("--control", metavar="HOST:PORT", help="The control plane.")
_INFERENCE = click.option("--inference", metavar="HOST:PORT", help="An inference plane.")
_SECURITY = (
    click.option("--token-file", metavar="FILE", help="Holds the bearer token; mode 0600."),
    click.option("--tls-ca", metavar="FILE", help="PEM of the certificate authority to trust, or `system`."),
)


def connects(inference: bool = False) -> Callable[[Command], Command]:
    """Adds the connection flags, with `inference` also --inference; the command gets them as `connection`."""
    names = ("control", "inference", "token_file", "tls_ca") if inference else ("control", "token_file", "tls_ca")
    flags = (_CONTROL, _INFERENCE, *_SECURITY) if inference else (_CONTROL, *_SECURITY)

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def call(**values: Any) -> Any:
            given = {name: values.pop(name) for name in names}
            return command(connection=Connection(**given), **values)

        for flag in reversed(flags):
            call = flag(call)
        return call

    return decorate


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def examples(*lines: str) -> str:
    """The epilog that shows `lines` as examples."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
