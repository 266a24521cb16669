"""How the workers of an attempt reach each other."""

from __future__ import annotations

import fcntl
import socket
import struct

LOOPBACK = ("127.0.0.1", "lo")
SIOCGIFADDR = 0x8915


def common_network(addresses: list[str]) -> list[tuple[str, str]]:
    """For each worker: the address to bind to and the interface of collectives ("": find it on the worker's machine).
    Workers that all have one address are on one machine and need no more than its loopback.
    """
    if len(set(addresses)) == 1:
        return [LOOPBACK] * len(addresses)
    return [(address, "") for address in addresses]


def interface_of(address: str) -> str:
    """The network interface of this machine that has `address`. Raises OSError naming it when none has."""
    wanted = socket.inet_aton(address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as query:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode())
            try:
                if fcntl.ioctl(query, SIOCGIFADDR, request)[20:24] == wanted:
                    return name
            except OSError:  # an interface without an IPv4 address
                continue
    raise OSError(f"no network interface of this machine has the address {address}, by which Ray knows it")
