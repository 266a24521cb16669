"""ModelConfig as Triton's clients read it, the contract against theirs, and the two clients in one process."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.protobuf.descriptor import Descriptor
from tritonclient.grpc import model_config_pb2, service_pb2

from batchyard.client import Client
from batchyard.oip import SERVICE_NAME
from batchyard.oip.contract import FILES, SERVICE
from batchyard.serving.settings import Limits
from batchyard.v1 import models_pb2, serving_pb2
from bench.small_artifact import SmallNetwork
from tests.serving.harness import Serving, assert_is_answer, until

NETWORK = SmallNetwork(seed=1)
PIXELS = NETWORK.pixels(2)


async def config_of(serving: Serving, name: str = "mnist", version: str = "") -> Any:
    async with triton_aio.InferenceServerClient(serving.plane.grpc_address) as client:
        return (await client.get_model_config(name, version)).config


async def test_tensors_engine_and_certificate_are_told(mnist: Serving) -> None:
    config = await config_of(mnist, "mnist@production")
    assert (config.name, list(config.version_policy.specific.versions)) == ("mnist", [1])
    (tensor,), (output,) = config.input, config.output
    assert (tensor.name, list(tensor.dims)) == ("pixels", [1, 28, 28])
    assert (output.name, list(output.dims)) == ("logits", [10])
    assert tensor.data_type == output.data_type == model_config_pb2.TYPE_FP32
    assert config.max_batch_size == Limits().max_batch
    told = {name: parameter.string_value for name, parameter in config.parameters.items()}
    assert (told["version"], told["certificate_bound"]) == ("1", "0.001")
    timings = json.loads(told["engine_timings"])
    assert timings["chosen"][0]["engine"] in told["engine"]
    with pytest.raises(triton.InferenceServerException, match="served: mnist"):
        await config_of(mnist, "other")


async def test_the_batching_that_is_in_force_is_told(serving: Serving) -> None:
    await serving.start(limits=Limits(max_batch=32, queue_rows=1000))
    version = serving.version(1)
    serving.wish(version)
    await serving.until_version(1)
    default = await config_of(serving)
    assert (default.max_batch_size, default.dynamic_batching.default_queue_policy.max_queue_size) == (32, 1000)
    assert default.dynamic_batching.priority_levels == 0
    settings = serving_pb2.ServingSettings(
        max_batch_size=16,
        preferred_batch_sizes=[4, 8],
        max_queue_delay_microseconds=500,
        max_queue_rows=100,
        priority_levels=5,
        default_timeout_microseconds=2_000_000,
        allow_timeout_override=False,
        timeout_action=serving_pb2.ServingSettings.DELAY,
    )
    model = models_pb2.Model(name="models/mnist", latest_version=1, serving_settings=settings)
    serving.control.tell(models_pb2.ServedModel(model=model, versions=[version]))
    served = serving.plane.repository.resolve("mnist", "")
    await until(lambda: served.policy.max_batch == 16, "the settings are in force")
    changed = await config_of(serving)
    batching, policy = changed.dynamic_batching, changed.dynamic_batching.default_queue_policy
    assert (changed.max_batch_size, list(batching.preferred_batch_size)) == (16, [4, 8])
    assert (batching.max_queue_delay_microseconds, batching.priority_levels) == (500, 5)
    assert batching.default_priority_level == 3
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (100, 2_000_000)
    assert (policy.timeout_action, policy.allow_timeout_override) == (model_config_pb2.ModelQueuePolicy.DELAY, False)


async def test_the_extensions_are_those_that_are_there(serving: Serving) -> None:
    await serving.start(shared_memory="*", model_control="explicit", trace_dir=serving.folder)
    async with triton_aio.InferenceServerClient(serving.plane.grpc_address) as client:
        metadata = await client.get_server_metadata()
    everywhere = ["classification", "model_configuration", "schedule_policy", "statistics", "logging"]
    control = ["model_repository", "model_repository(unload_dependents)"]
    assert list(metadata.extensions) == [*everywhere, *control, "system_shared_memory", "trace"]


async def test_our_client_and_tritonclient_share_a_process(mnist: Serving) -> None:
    def ask() -> tuple[np.ndarray, np.ndarray]:
        address = mnist.plane.grpc_address
        tensor = triton.InferInput("pixels", list(PIXELS.shape), "UINT8")
        tensor.set_data_from_numpy(PIXELS)
        with triton.InferenceServerClient(address) as theirs, Client(inference=address) as ours:
            result = theirs.infer("mnist", [tensor])
            return result.as_numpy("logits"), ours.infer("mnist", {"pixels": PIXELS}).outputs["logits"]

    theirs, ours = await asyncio.to_thread(ask)
    np.testing.assert_array_equal(theirs, ours)
    assert_is_answer(ours, NETWORK, PIXELS)


def test_every_method_and_field_is_the_public_clients() -> None:
    def walk(message: Descriptor) -> None:
        fields[message.full_name] = {
            field.name: (field.number, field.type, field.is_repeated) for field in message.fields
        }
        for nested in message.nested_types:
            walk(nested)

    fields: dict[str, Any] = {}
    for module in (service_pb2, model_config_pb2):
        for message in module.DESCRIPTOR.message_types_by_name.values():
            walk(message)
    theirs, fields = fields, {}
    for file in FILES:
        for message in file.message_types_by_name.values():
            walk(message)
    assert len(fields) > 50
    for name, known in fields.items():
        assert known.items() <= theirs[name].items(), name
    public = service_pb2.DESCRIPTOR.services_by_name[SERVICE_NAME.rpartition(".")[2]]
    assert {method.name for method in SERVICE.methods} == {method.name for method in public.methods}
