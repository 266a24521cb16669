"""The store where the workers of an attempt meet: opened by rank 0, joined by the others. Loads torch when called."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store


def open_store(host: str, world_size: int) -> tuple[Store, int]:
    """A store on `host` and the port that the kernel picked. TCPStore by itself would listen on every interface."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not in its __all__

    listener = socket.create_server((host, 0), family=family(host))
    port = listener.getsockname()[1]
    store = TCPStore(
        host,
        port,
        world_size,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )
    return store, port


def join_store(host: str, port: int, world_size: int) -> Store:
    """The store that rank 0 has opened there."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not in its __all__

    return TCPStore(host, port, world_size, is_master=False, wait_for_workers=False)


def family(host: str) -> socket.AddressFamily:
    """IPv6 for an address with colons."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET
