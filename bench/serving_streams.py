"""ModelStreamInfer through pygrpc-native's fall-back and on grpcio itself. A part of bench/serving.py.

A stream goes to grpcio in both cases; with pygrpc-native it crosses one more socket on the way. The client is grpcio's,
in this process: both are measured through it, and neither as fast as it would be with a faster one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from batchyard.oip import SERVICE_NAME
from bench import inference_plane, report
from bench.oip_target import Artifact, Target

PATH = f"/{SERVICE_NAME}/ModelStreamInfer"
REQUESTS, UNDER_WAY = 3000, 64
"""Of one stream."""
TRANSPORTS = ("native", "grpcio")


def rows(artifact: Artifact, folder: Path, rounds: int) -> list[report.Row]:
    """Answers a second of one stream. Raises RuntimeError when a request is not answered."""
    with ExitStack() as running:
        contenders = {}
        for transport in TRANSPORTS:
            plane = running.enter_context(inference_plane.running(folder / transport, "--transport", transport))
            plane.control.want(artifact.name, 1, artifact.folder, artifact.sha256)
            target = Target(name=transport, address=plane.grpc, model=artifact.name, tensor="pixels", pixels=np.uint8)
            target.wait_until_ready(plane.process, folder / transport / "log")
            contenders[transport] = partial(_rate, target, target.request(artifact.rows))
        for warm_up in contenders.values():
            warm_up()
        measured = report.alternate(contenders, rounds)
    return [report.compare("MLP, one stream", measured, *TRANSPORTS, unit="requests/s", bar=None)]


def _rate(target: Target, request: bytes) -> float:
    began = time.perf_counter()
    asyncio.run(_stream(target.address, request))
    return REQUESTS / (time.perf_counter() - began)


async def _stream(address: str, request: bytes) -> None:
    """Bytes in and out."""
    room = asyncio.Semaphore(UNDER_WAY)

    async def requests() -> AsyncIterator[bytes]:
        for _ in range(REQUESTS):
            await room.acquire()
            yield request

    answered = 0
    async with grpc.aio.insecure_channel(address) as channel:
        stream: Any = channel.stream_stream(PATH, None, None)
        async for _ in stream(requests()):
            answered += 1
            room.release()
    if answered != REQUESTS:
        raise RuntimeError(f"{answered} of {REQUESTS} requests of a stream were answered")
