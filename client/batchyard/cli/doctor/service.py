"""Does a service run, does it answer, and could one start here?"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator

from batchyard.cli import local, processes
from batchyard.cli.doctor.finding import Finding, Patient, absent, bad, good, warning
from batchyard.cli.failures import Failure
from batchyard.client import Client, ConfigurationError, RpcError, UnavailableError
from batchyard.client.settings import DEFAULT_CONTROL, DEFAULT_INFERENCE, SYSTEM_ROOTS, read_control_file

DEFAULT_PORTS = {50051: "--grpc", 8080: "--http", 8001: "--inference-grpc", 8002: "--inference-http"}
"""Port -> the flag of `up` that gives another one."""
CERTIFICATE_DAYS = 14
"""Days before its end from which a certificate is worth a warning."""
_CONNECT_SECONDS = 3.0


def process(patient: Patient) -> Iterator[Finding]:
    """The service that runs on the data folder, if any."""
    try:
        running, file = local.find(patient.data_dir), read_control_file(patient.data_dir)
    except ConfigurationError as error:
        yield bad("service here", error.message, error.hint)
        return
    if running is not None:
        yield good("service here", f"process {running.process.pid} on {patient.data_dir}")
    elif left := processes.naming(patient.data_dir):
        found = f"it has died, and what it had started runs on: {processes.named(left)}"
        yield warning("service here", found, "Start it again with `batchyard up`: it takes that up.")
    elif file is not None:
        found = f"none; {patient.data_dir} holds what an earlier one left (process {file.get('pid')})"
        yield absent("service here", found, "Start it again with `batchyard up`: it goes on with that data.")
    else:
        yield absent("service here", f"none on {patient.data_dir}", "Start one with `batchyard up`.")


def ports(patient: Patient) -> Iterator[Finding]:
    """Whether `up` would find its ports free; of no interest while a service runs."""
    try:
        if local.find(patient.data_dir) is not None:
            return
    except ConfigurationError:
        pass  # told by `process`
    taken = {port: flag for port, flag in DEFAULT_PORTS.items() if _taken(port)}
    if not taken:
        yield good("ports", ", ".join(map(str, DEFAULT_PORTS)) + " are free")
    for port, flag in taken.items():
        yield warning("ports", f"127.0.0.1:{port} is taken", f"batchyard up {flag} 127.0.0.1:0 takes a free one.")


def planes(patient: Patient) -> Iterator[Finding]:
    """Whether both planes answer where this command would look for them, and how fast."""
    try:
        client = patient.connection.open()
    except (ConfigurationError, Failure) as error:
        yield bad("connection", error.message, error.hint)
        return
    with client:
        settings = client.settings
        yield _ask("control plane", settings.control, client.healthy, "serving", "not serving yet")
        yield _ask("inference plane", settings.inference, client.inference.server_ready, "ready", "loading models")
        yield from _certificates(client)


def _ask(what: str, address: str, call: Callable[[], bool], yes: str, no: str) -> Finding:
    began = time.perf_counter()
    try:
        well = call()
    except UnavailableError as error:
        # Nobody has said that there is one unless its address was given.
        return (absent if address in (DEFAULT_CONTROL, DEFAULT_INFERENCE) else bad)(what, error.message, error.hint)
    except RpcError as error:
        return bad(what, f"{address}: {error.message}", error.hint)
    found = f"{address} answers in {1000 * (time.perf_counter() - began):.0f} ms"
    return good(what, f"{found}, {yes}") if well else warning(what, f"{found}, {no}", "Wait, then ask again.")


def _certificates(client: Client) -> Iterator[Finding]:
    settings = client.settings
    if settings.tls_ca is None:
        return
    for what, address in (("control plane", settings.control), ("inference plane", settings.inference)):
        label = f"certificate of the {what}"
        try:
            days = days_left(address, settings.tls_ca)
        except OSError as error:
            yield warning(label, f"{address}: {error}", "Look at --tls-ca and at the service's --tls-cert.")
            continue
        if days < CERTIFICATE_DAYS:
            advice = "Renew it and start the service again with the new --tls-cert."
            yield warning(label, f"{address}: ends in {days:.0f} days", advice)
        else:
            yield good(label, f"{address}: good for {days:.0f} days")


def days_left(address: str, tls_ca: str) -> float:
    """Days until the certificate of `address` ends. Raises OSError: no connection, or one that is not trusted."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    context = ssl.create_default_context(cafile=None if tls_ca == SYSTEM_ROOTS else tls_ca)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, int(port)), _CONNECT_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        certificate = secure.getpeercert()
    assert certificate is not None  # there always is one after a verified handshake
    return (ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) / 86400


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
