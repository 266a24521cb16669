"""Stands in for the real `python -m batchyard.control`: what it does is in STAND_IN, for tests of up and down."""

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from batchyard.client.testing import FakeService

parser = argparse.ArgumentParser()
parser.add_argument("--data-dir", type=Path, required=True)
given, others = parser.parse_known_args()
story = os.environ["STAND_IN"]

sys.stdout.write(f"arguments {json.dumps(others)}\n")
sys.stdout.flush()
if story == "dies":
    sys.stdout.write("the address 127.0.0.1:50051 is taken\n")
    sys.exit(7)
if story == "refuses":
    sys.stdout.write("INFO on the way\nbatchyard.control: --grpc x: expected HOST:PORT\n")
    sys.exit(2)
if "--standby" in others:
    sys.stdout.write("INFO standing by: the data folder is in use\n")
    sys.stdout.flush()
    signal.pause()
# In a session of its own, as workers are.
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
# Blocked here, and so in every thread to come, they wait until the main thread asks for them.
ENDS = {signal.SIGTERM, signal.SIGINT}
signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
with FakeService() as service:
    if story != "silent":
        facts = {"pid": os.getpid(), "grpc": service.address, "http": "127.0.0.1:1", "tls": False, "token_file": None}
        facts |= {"inference_grpc": service.address, "inference_http": "127.0.0.1:2", "child": child.pid}
        partial = given.data_dir / "partial"
        partial.write_text(json.dumps(facts))
        partial.rename(given.data_dir / "control.json")
    signal.sigwait(ENDS)
    while story == "stubborn":
        signal.sigwait(ENDS)
    (given.data_dir / "control.json").unlink(missing_ok=True)
    child.terminate()
    child.wait()
