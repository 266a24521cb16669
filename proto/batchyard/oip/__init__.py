"""The Open Inference Protocol contract: its messages and how to serve or call them. No torch, no Ray."""

from batchyard.oip import messages
from batchyard.oip.contract import SERVICE_NAME
from batchyard.oip.service import Stub, add_servicer

__all__ = ["SERVICE_NAME", "Stub", "add_servicer", "messages"]
