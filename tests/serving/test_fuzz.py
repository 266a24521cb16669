"""Wrong requests without end to a real server process: a clear status each, no crash, right answers in between.

BATCHYARD_FUZZ_SECONDS is for each transport, BATCHYARD_FUZZ_SEED repeats a run; `make fuzz SECONDS=600` runs longer.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest

from batchyard.oip import SERVICE_NAME, Stub
from tests.serving.fuzzing import NETWORK, Mutator
from tests.serving.harness import Serving, assert_is_answer, logits_of, request_for, until
from tests.serving.test_process import arguments, until_ready

SECONDS = float(os.environ.get("BATCHYARD_FUZZ_SECONDS", "15"))
SEED = int(os.environ.get("BATCHYARD_FUZZ_SEED") or random.randrange(2**32))
AT_A_TIME = 16
CLEAR = {
    grpc.StatusCode.OK,  # what was changed did not matter
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.DEADLINE_EXCEEDED,  # a mutated `timeout` of a few microseconds
}
PIXELS = NETWORK.pixels(3)


@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.parametrize("transport", ["native", "grpcio"])
async def test_no_wrong_request_gets_an_unclear_status_or_harms_a_right_one(tmp_path: Path, transport: str) -> None:
    serving = Serving(tmp_path, transport)
    await serving.control.start()
    serving.wish(serving.version(1), aliases={"production": 1})
    ready, control = tmp_path / "ready.json", f"127.0.0.1:{serving.control.port}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "batchyard.serving", *arguments(tmp_path, control), "--transport", transport,
        "--ready-file", str(ready), "--engines", "onnxruntime", env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        await until(ready.exists, "the ready file")
        async with grpc.aio.insecure_channel(json.loads(ready.read_text())["grpc"]) as channel:
            await until_ready(Stub(channel))
            counts = await fuzz(channel, Mutator(SEED))
        assert process.returncode is None
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await serving.control.stop()
    print(f"{transport}: seed {SEED}, {sum(counts.values())} requests: {dict(counts)}")  # noqa: T201
    assert counts["INVALID_ARGUMENT"] > counts["OK"] > 0


async def fuzz(channel: Any, mutator: Mutator) -> Counter[str]:
    """How many requests had which outcome; every batch of them comes with one that must be answered."""
    send = channel.unary_unary(f"/{SERVICE_NAME}/ModelInfer")
    stub: Any = Stub(channel)
    counts: Counter[str] = Counter()

    async def wrong() -> None:
        kind, packed = mutator.next()
        try:
            await send(packed, timeout=30)
        except grpc.aio.AioRpcError as refusal:
            code, words = refusal.code(), refusal.details()
        else:
            code, words = grpc.StatusCode.OK, "answered"
        told = f"seed {SEED}, {kind}, {packed[:200].hex()}: {code} {words}"
        assert code in CLEAR, told
        assert words, told
        counts[code.name] += 1

    end = asyncio.get_running_loop().time() + SECONDS
    while asyncio.get_running_loop().time() < end:
        right = asyncio.ensure_future(stub.ModelInfer(request_for(PIXELS), timeout=30))
        await asyncio.gather(*(wrong() for _ in range(AT_A_TIME)))
        assert_is_answer(logits_of(await right), NETWORK, PIXELS)
    return counts
