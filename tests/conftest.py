"""What every test relies on."""

import signal


def pytest_configure() -> None:
    # A runner that was started in the background hands on an ignored SIGINT; commands that tests interrupt need it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
