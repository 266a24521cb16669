"""What every test relies on."""

import os
import signal


def pytest_configure() -> None:
    # A runner that was started in the background hands on an ignored SIGINT; commands that tests interrupt need it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["BATCHYARD_FETCH"] = "no"  # tests use no network, nor do the services that they start
