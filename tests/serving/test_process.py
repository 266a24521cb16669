"""`python -m batchyard.serving` as a process: its ready file, its end, and what it says to wrong arguments."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from batchyard.oip import Stub, messages
from bench.small_artifact import SmallNetwork
from tests.serving.harness import Serving, assert_is_answer, logits_of, request_for, until

Start = Callable[..., Awaitable[asyncio.subprocess.Process]]
PIXELS = SmallNetwork().pixels(2)


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts the module with arguments; what still runs at the end is killed."""
    started: list[asyncio.subprocess.Process] = []

    async def start(*arguments: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "batchyard.serving", *arguments,
            stderr=asyncio.subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def arguments(folder: Path, control: str) -> list[str]:
    given = {"--control": control, "--cache": folder / "cache", "--grpc": "127.0.0.1:0", "--http": "127.0.0.1:0"}
    return [str(word) for pair in given.items() for word in pair]


@pytest.mark.parametrize("transport", ["native", "grpcio"])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_it_writes_its_addresses_serves_and_ends_cleanly_on_a_signal(
    tmp_path: Path, start: Start, transport: str, signum: signal.Signals
) -> None:
    serving = Serving(tmp_path, transport)
    await serving.control.start()
    serving.wish(serving.version(1))
    ready = tmp_path / "ready.json"
    control = f"127.0.0.1:{serving.control.port}"
    process = await start(*arguments(tmp_path, control), "--transport", transport, "--ready-file", str(ready))
    await until(ready.exists, "the ready file")
    addresses = json.loads(ready.read_text())
    assert addresses["pid"] == process.pid
    async with grpc.aio.insecure_channel(addresses["grpc"]) as channel:
        stub: Any = Stub(channel)
        await until_ready(stub)
        assert_is_answer(logits_of(await stub.ModelInfer(request_for(PIXELS))), SmallNetwork(seed=1), PIXELS)
    process.send_signal(signum)
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, errors.decode()
    assert "Traceback" not in errors.decode()
    assert not ready.exists()
    await serving.control.stop()


async def until_ready(stub: Any) -> None:
    deadline = asyncio.get_running_loop().time() + 30
    while not (await stub.ServerReady(messages.ServerReadyRequest())).ready:
        assert asyncio.get_running_loop().time() < deadline, "not ready in time"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--max-batch", "0"], "--max-batch 0: expected at least 1"),
        (["--grpc", "0.0.0.0:0"], "can be reached from other machines"),
        (["--token-file", "/nonexistent"], "token file /nonexistent: No such file"),
        (["--tls-cert", "/nonexistent"], "--tls-cert and --tls-key go together"),
    ],
)
async def test_settings_that_cannot_work_end_it_with_status_2_and_one_line(
    tmp_path: Path, start: Start, more: list[str], words: str
) -> None:
    await assert_ends_with(await start(*arguments(tmp_path, "127.0.0.1:1"), *more), words)


@pytest.mark.parametrize("transport", ["native", "grpcio"])
@pytest.mark.parametrize("flag", ["--grpc", "--http"])
async def test_a_port_that_is_taken_ends_it_with_status_2_and_one_line(
    tmp_path: Path, start: Start, transport: str, flag: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        more = ["--transport", transport, flag, address]
        await assert_ends_with(
            await start(*arguments(tmp_path, "127.0.0.1:1"), *more), f"{flag} {address} cannot be bound"
        )


async def assert_ends_with(process: asyncio.subprocess.Process, words: str) -> None:
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    (line,) = [line for line in errors.decode().splitlines() if line.startswith("batchyard.serving: ")]
    assert words in line
    assert "Traceback" not in errors.decode()
    assert process.returncode == 2
