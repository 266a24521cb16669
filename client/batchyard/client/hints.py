"""What to do about errors that do not say it themselves, and plain words for what a channel reports."""

from __future__ import annotations

from typing import NamedTuple

from batchyard.client import errors

_TOKEN = "Name a file that holds the service's token with --token-file or BATCHYARD_TOKEN_FILE."
_BUSY = "See whether the service is busy or stuck; its log is in its data folder."
CONTROL_HINTS: dict[type[errors.RpcError], str] = {
    errors.UnavailableError: "Start a service with `batchyard up`, or say where one is with --control.",
    errors.DeadlineExceededError: _BUSY,
    errors.AccessError: _TOKEN,
}
INFERENCE_HINTS: dict[type[errors.RpcError], str] = {
    errors.UnavailableError: "Start a service with `batchyard up`, or say where one is with --inference.",
    errors.DeadlineExceededError: _BUSY,
    errors.OverloadedError: "Send fewer requests at once, or add an inference plane.",
    errors.AccessError: _TOKEN,
}


class Trouble(NamedTuple):
    """What keeps a channel from its service."""

    words: str
    hint: str = ""
    """Empty: what is always to be done about a service that does not answer."""


_AUTHORITY = "name the authority that signed its certificate with --tls-ca or BATCHYARD_TLS_CA."
# A part of gRPC's own message -> what it means.
_TROUBLES = {
    "onnection refused": Trouble("connection refused"),
    "CERTIFICATE_VERIFY_FAILED": Trouble("its certificate is not trusted here", f"Please {_AUTHORITY}"),
    "ostname Verification": Trouble("its certificate is for another host name", "Use the name in its certificate."),
    "WRONG_VERSION_NUMBER": Trouble("it does not speak TLS", "Leave --tls-ca and BATCHYARD_TLS_CA out."),
    "Failed parsing HTTP/2": Trouble("it does not speak gRPC", "Give a gRPC address (`batchyard up` prints them)."),
    "Domain name not found": Trouble("there is no host of that name", "Correct its address."),
    "Socket closed": Trouble("it closed the connection", f"If it speaks TLS, {_AUTHORITY}"),
}


def trouble(message: str) -> Trouble:
    """The telling part of gRPC's "failed to connect to all addresses; last error: UNKNOWN: ipv4:...: words"."""
    known = next((found for part, found in _TROUBLES.items() if part in message), None)
    return known or Trouble(message.rpartition("last error: ")[2].strip().rstrip("."))
