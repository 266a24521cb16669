"""What every test relies on."""

import os
import signal

import pytest


def pytest_configure() -> None:
    # A runner that was started in the background hands on an ignored SIGINT; commands that tests interrupt need it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["BATCHYARD_FETCH"] = "no"  # tests use no network, nor do the services that they start


def pytest_itemcollected(item: pytest.Item) -> None:
    # What runs side by side (make unit): files, for their tests share what they start; tests with a Ray cluster one
    # after the other, for each head takes a core for seconds, and one of them once never began an attempt.
    group = "ray" if item.get_closest_marker("ray") else str(item.path)
    item.add_marker(pytest.mark.xdist_group(group))
