"""System shared memory, registered and used by tritonclient; what is refused, and what a hostile client cannot do."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.utils.shared_memory as shm

from batchyard.oip import messages
from bench.small_artifact import SmallNetwork
from tests.serving.harness import Serving, assert_is_answer, reason_of, refusal, request_for

NETWORK = SmallNetwork(seed=1)
PIXELS = NETWORK.pixels(4)
IN_BYTES = PIXELS.nbytes
OUT_BYTES = 4 * 10 * 4
PAGE = 4096


REFUSED: list[tuple[dict[str, Any], grpc.StatusCode, str]] = [
    ({"key": "psm_of_somebody_else"}, grpc.StatusCode.PERMISSION_DENIED, "batchyard-test-*"),
    ({"key": "batchyard-test-*/../../etc/passwd"}, grpc.StatusCode.INVALID_ARGUMENT, "without a folder"),
    ({"key": "batchyard-test-none"}, grpc.StatusCode.NOT_FOUND, "batchyard-test-none"),
    ({"key": ".."}, grpc.StatusCode.PERMISSION_DENIED, "'..'"),
    ({"key": ""}, grpc.StatusCode.PERMISSION_DENIED, "''"),
    ({"name": ""}, grpc.StatusCode.INVALID_ARGUMENT, "name: got 0 characters"),
    ({"name": "x" * 300}, grpc.StatusCode.INVALID_ARGUMENT, "name: got 300 characters"),
    ({"byte_size": 0}, grpc.StatusCode.INVALID_ARGUMENT, "byte_size: got 0"),
    ({"byte_size": 2**64 - 1}, grpc.StatusCode.INVALID_ARGUMENT, "byte_size: bytes 0 to 18446744073709551615"),
    ({"offset": 2**64 - 1}, grpc.StatusCode.INVALID_ARGUMENT, "byte_size: bytes 18446744073709551615"),
]
"""What is wrong with a registration -> what the client is told."""


@pytest.fixture
def key() -> str:
    """Of a shared memory object that no other run of this test has."""
    return f"batchyard-test-{uuid.uuid4().hex}"


@pytest.fixture
def region(key: str) -> Iterator[Any]:
    """Room for the pixels and, from `IN_BYTES` on, the logits."""
    handle = shm.create_shared_memory_region("ours", key, IN_BYTES + OUT_BYTES)
    shm.set_shared_memory_region(handle, [PIXELS])
    yield handle
    shm.destroy_shared_memory_region(handle)


@pytest.fixture
async def open_mnist(serving: Serving) -> Serving:
    """Lets clients register what these tests make, and nothing else."""
    await serving.start(shared_memory="batchyard-test-*")
    serving.wish(serving.version(1), aliases={"production": 1})
    await serving.until_version(1)
    return serving


def from_memory(size: int = IN_BYTES, offset: int = 0, region: str = "ours") -> list[triton.InferInput]:
    tensor = triton.InferInput("pixels", list(PIXELS.shape), "UINT8")
    tensor.set_shared_memory(region, size, offset=offset)
    return [tensor]


def to_memory(size: int = OUT_BYTES, offset: int = IN_BYTES) -> list[triton.InferRequestedOutput]:
    output = triton.InferRequestedOutput("logits")
    output.set_shared_memory("ours", size, offset=offset)
    return [output]


async def test_pixels_come_from_and_logits_go_to_shared_memory(open_mnist: Serving, region: Any, key: str) -> None:
    async with triton_aio.InferenceServerClient(open_mnist.plane.grpc_address) as client:
        # As Triton's examples begin, on machines without CUDA too.
        await client.unregister_system_shared_memory()
        await client.unregister_cuda_shared_memory()
        await client.register_system_shared_memory("ours", f"/{key}", IN_BYTES + OUT_BYTES)
        status = await client.get_system_shared_memory_status(as_json=True)
        assert status["regions"]["ours"]["byte_size"] == str(IN_BYTES + OUT_BYTES)
        result = await client.infer("mnist", from_memory(), outputs=to_memory())
        output = result.get_output("logits")
        assert (output.parameters["shared_memory_region"].string_param, list(output.shape)) == ("ours", [4, 10])
        assert list(result.get_response().raw_output_contents) == [b""]
        assert_is_answer(shm.get_contents_as_numpy(region, np.float32, (4, 10), IN_BYTES), NETWORK, PIXELS)
        mixed = await client.infer("mnist", from_memory())
        assert_is_answer(mixed.as_numpy("logits"), NETWORK, PIXELS)
        await client.unregister_system_shared_memory("ours")
        assert not (await client.get_system_shared_memory_status()).regions
        with pytest.raises(triton.InferenceServerException, match="no shared memory region 'ours'"):
            await client.infer("mnist", from_memory())


async def test_classes_go_to_shared_memory_too(open_mnist: Serving, region: Any, key: str) -> None:
    request = request_for(PIXELS)
    wanted = request.outputs.add(name="logits")
    wanted.parameters["classification"].int64_param = 1
    wanted.parameters["shared_memory_region"].string_param = "ours"
    wanted.parameters["shared_memory_byte_size"].int64_param = OUT_BYTES
    register = messages.SystemSharedMemoryRegisterRequest(name="ours", key=key, offset=IN_BYTES, byte_size=OUT_BYTES)
    await open_mnist.stub.SystemSharedMemoryRegister(register)
    await open_mnist.stub.ModelInfer(request)
    best = shm.get_contents_as_numpy(region, np.object_, [4, 1], IN_BYTES).ravel()
    classes = [f"class-{index}" for index in NETWORK.oracle(PIXELS).argmax(axis=1)]
    assert [element.decode().split(":")[2] for element in best] == classes


async def test_without_leave_nothing_can_be_registered(mnist: Serving, region: Any, key: str) -> None:
    request = messages.SystemSharedMemoryRegisterRequest(name="ours", key=key, byte_size=16)
    code, message, status = await refusal(mnist.stub.SystemSharedMemoryRegister(request))
    assert (code, reason_of(status)) == (grpc.StatusCode.PERMISSION_DENIED, "SHARED_MEMORY_FORBIDDEN")
    assert "--shared-memory" in message
    metadata = await mnist.stub.ServerMetadata(messages.ServerMetadataRequest())
    assert "system_shared_memory" not in metadata.extensions


async def test_a_region_that_cannot_be_is_refused(open_mnist: Serving, region: Any, key: str) -> None:
    for change, code, words in REFUSED:
        asked = {"name": "ours", "key": key, "offset": 0, "byte_size": 16, **change}
        call = open_mnist.stub.SystemSharedMemoryRegister(messages.SystemSharedMemoryRegisterRequest(**asked))
        told, message, _ = await refusal(call)
        assert (told, words in message) == (code, True), (change, message)
    assert open_mnist.plane.shared_memory.regions() == []


async def test_a_name_is_taken_until_it_is_unregistered(open_mnist: Serving, region: Any, key: str) -> None:
    register, stub = messages.SystemSharedMemoryRegisterRequest(name="ours", key=key, byte_size=16), open_mnist.stub
    await stub.SystemSharedMemoryRegister(register)
    code, _, status = await refusal(stub.SystemSharedMemoryRegister(register))
    assert (code, reason_of(status)) == (grpc.StatusCode.ALREADY_EXISTS, "REGION_EXISTS")
    await stub.SystemSharedMemoryUnregister(messages.SystemSharedMemoryUnregisterRequest(name="ours"))
    await stub.SystemSharedMemoryRegister(register)
    code, _, _ = await refusal(stub.SystemSharedMemoryStatus(messages.SystemSharedMemoryStatusRequest(name="other")))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_no_link_and_no_pipe_passes_for_shared_memory(open_mnist: Serving, key: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * PAGE)
    there = Path("/dev/shm") / key
    request = messages.SystemSharedMemoryRegisterRequest(name="ours", key=key, byte_size=16)
    for make, words in ((lambda: there.symlink_to(secret), "cannot be opened"), (lambda: os.mkfifo(there), "is no")):
        make()  # type: ignore[no-untyped-call]
        try:
            _, message, _ = await refusal(open_mnist.stub.SystemSharedMemoryRegister(request))
        finally:
            there.unlink()
        assert words in message


async def test_bounds_are_checked_for_every_tensor(open_mnist: Serving, region: Any, key: str) -> None:
    wrong: list[tuple[Any, Any, str]] = [
        (from_memory(size=IN_BYTES - 1), None, "shared_memory_byte_size"),
        (from_memory(offset=OUT_BYTES + 1), None, "shared_memory_offset"),
        (from_memory(region="theirs"), None, "registered: 'ours'"),
        (from_memory(), to_memory(size=OUT_BYTES - 4), "the request gives it 156"),
        (from_memory(), to_memory(offset=IN_BYTES + 1), "shared_memory_offset"),
    ]
    async with triton_aio.InferenceServerClient(open_mnist.plane.grpc_address) as client:
        await client.register_system_shared_memory("ours", key, IN_BYTES + OUT_BYTES)
        for inputs, outputs, words in wrong:
            with pytest.raises(triton.InferenceServerException, match=words):
                await client.infer("mnist", inputs, outputs=outputs)


async def test_memory_and_contents_together_are_refused(open_mnist: Serving) -> None:
    request = request_for(PIXELS)
    request.inputs[0].parameters["shared_memory_region"].string_param = "ours"
    code, message, _ = await refusal(open_mnist.stub.ModelInfer(request))
    assert (code, "send one of them" in message) == (grpc.StatusCode.INVALID_ARGUMENT, True)


async def test_a_client_that_shrinks_its_memory_hurts_only_itself(open_mnist: Serving, region: Any, key: str) -> None:
    async with triton_aio.InferenceServerClient(open_mnist.plane.grpc_address) as client:
        await client.register_system_shared_memory("ours", key, IN_BYTES + OUT_BYTES)
        os.truncate(Path("/dev/shm") / key, 10)
        with pytest.raises(triton.InferenceServerException, match="smaller than when it was registered"):
            await client.infer("mnist", from_memory())
        with pytest.raises(triton.InferenceServerException, match="smaller than when it was registered"):
            await client.infer("mnist", [plain_pixels()], outputs=to_memory())
        assert (Path("/dev/shm") / key).stat().st_size == 10
        result = await client.infer("mnist", [plain_pixels()])
        assert_is_answer(result.as_numpy("logits"), NETWORK, PIXELS)


async def test_cuda_memory_is_unimplemented_and_there_is_none(mnist: Serving) -> None:
    async with triton_aio.InferenceServerClient(mnist.plane.grpc_address) as client:
        assert not (await client.get_cuda_shared_memory_status()).regions
        with pytest.raises(triton.InferenceServerException) as caught:
            await client.register_cuda_shared_memory("theirs", b"aGFuZGxl", 0, 16)
        assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


def plain_pixels() -> triton.InferInput:
    tensor = triton.InferInput("pixels", list(PIXELS.shape), "UINT8")
    tensor.set_data_from_numpy(PIXELS)
    return tensor
