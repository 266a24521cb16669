"""The asynchronous client: the same calls as Client's, awaited.

These modules are the source of both: tools/generate_sync_client.py makes ../client.py, ../calls.py and the others of
the same names from them. What both share (requests, decisions, errors) lies beside those; how each waits, in its own
waiting.py.
"""

from batchyard.client.aio.client import AsyncClient
from batchyard.client.aio.rerun import compare_weights

__all__ = ["AsyncClient", "compare_weights"]
