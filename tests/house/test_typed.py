"""Whoever imports the client or the library gets its types (PEP 561): in a namespace, package by package."""

from importlib.resources import files

import pytest


@pytest.mark.parametrize(
    "package", ["batchyard.client", "batchyard.v1", "batchyard.oip", "batchyard.nn", "batchyard.models"]
)
def test_a_public_package_says_that_it_is_typed(package: str) -> None:
    assert files(package).joinpath("py.typed").is_file()
