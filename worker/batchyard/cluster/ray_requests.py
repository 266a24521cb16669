"""How the driver process takes requests from the control plane; ray_link.py makes them."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol


class Actions(Protocol):
    """What the driver can be asked to do."""

    def capacity(self) -> dict[str, int]:
        """What the cluster has."""

    def start(self, name: str) -> None:
        """Starts an attempt."""

    def cancel(self, name: str) -> None:
        """Cancels an attempt."""

    def pause(self, name: str) -> None:
        """Pauses an attempt."""

    def end(self, within_s: float) -> None:
        """Cancels all attempts and waits until they have ended."""


class Requests(socketserver.StreamRequestHandler):
    """One request a connection: a JSON line in, a JSON line out."""

    def handle(self) -> None:
        """Answers one request."""
        request = json.loads(self.rfile.readline())
        server = self.server
        assert isinstance(server, Server)
        try:
            answer = {"value": server.carry_out(**request)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        self.wfile.write(json.dumps(answer).encode() + b"\n")


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Takes requests from the control plane. Its socket lies in a folder that only its owner may enter."""

    daemon_threads = True

    def __init__(self, path: str, driver: Actions) -> None:
        self._driver = driver
        Path(path).unlink(missing_ok=True)
        super().__init__(path, Requests)

    def carry_out(self, do: str, **arguments: Any) -> object:
        """Calls the driver's method."""
        actions: dict[str, Callable[..., object]] = {
            "capacity": self._driver.capacity,
            "start": self._driver.start,
            "cancel": self._driver.cancel,
            "pause": self._driver.pause,
        }
        if do == "end":
            self._driver.end(**arguments)
            # Answers first; then serve_forever returns.
            threading.Thread(target=self.shutdown, daemon=True).start()
            return None
        return actions[do](**arguments)
