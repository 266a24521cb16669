"""The files of deploy/, parsed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


class OverridingLoader(yaml.SafeLoader):
    """Reads compose's !override as the value that it marks."""


def _overridden(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.MappingNode)
    return loader.construct_mapping(node, deep=True)


OverridingLoader.add_constructor("!override", _overridden)


def load(path: str) -> Any:
    return yaml.load((ROOT / path).read_text(), OverridingLoader)


@pytest.fixture
def compose() -> dict[str, Any]:
    """The services as they run by default."""
    loaded: dict[str, Any] = load("deploy/compose/compose.yaml")
    return loaded


@pytest.fixture
def compose_tls(compose: dict[str, Any]) -> dict[str, Any]:
    """The services as they run with compose.tls.yaml on top: every list in it is marked !override or is new."""
    over = load("deploy/compose/compose.tls.yaml")
    services = {name: {**service, **over["services"].get(name, {})} for name, service in compose["services"].items()}
    return {**compose, "services": services, "secrets": over["secrets"]}
