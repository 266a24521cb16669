"""Exits 0 if a plane's /healthz answers 200, else 1 with the reason: healthcheck.py HOST:PORT.

The address is this container's own loopback, so a certificate, which is made out to the outer name, is not verified.
"""

from __future__ import annotations

import ssl
import sys
import urllib.error
import urllib.request

SECONDS = 3


def ask(url: str) -> str | None:
    """None if `url` answers 200, else why not."""
    try:
        with urllib.request.urlopen(url, timeout=SECONDS, context=ssl._create_unverified_context()) as response:
            return None if response.status == 200 else f"{url}: {response.status}"
    except (OSError, urllib.error.URLError) as error:
        return f"{url}: {error}"


def main(address: str) -> int:
    """The exit code."""
    reasons = [ask(f"{scheme}://{address}/healthz") for scheme in ("http", "https")]
    if None in reasons:
        return 0
    sys.stderr.write("; ".join(str(reason) for reason in reasons) + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
