"""The table of times is told to whoever asks for it."""

from __future__ import annotations

import asyncio
import json

from click.testing import CliRunner

from batchyard.cli.main import batchyard
from batchyard.oip import messages
from batchyard.serving.engines.timings import Timings
from tests.serving.harness import Serving, until


async def measured(mnist: Serving) -> None:
    """Waits until all engines were tried."""
    served = mnist.plane.repository.resolve("mnist", "1")
    await until(lambda: not served.timings.measuring, "the engines are measured")


async def test_model_config_says_that_engines_are_still_being_tried(mnist: Serving) -> None:
    response = await mnist.stub.ModelConfig(messages.ModelConfigRequest(name="mnist"))
    assert response.config.parameters["engine"].string_value == "onnxruntime with 1 thread up to 128 rows"
    assert response.config.parameters["engine_choice"].string_value.startswith("measuring")
    await measured(mnist)
    response = await mnist.stub.ModelConfig(messages.ModelConfigRequest(name="mnist"))
    assert response.config.parameters["engine_choice"].string_value == "measured on 'mnist' version 1"


async def test_model_config_holds_the_table_of_the_version(mnist: Serving) -> None:
    await measured(mnist)
    response = await mnist.stub.ModelConfig(messages.ModelConfigRequest(name="mnist@production"))
    table = response.config.parameters["engine_timings"].string_value
    assert Timings.from_json(table) == mnist.plane.repository.resolve("mnist", "1").timings
    assert response.config.parameters["engine"].string_value.startswith("onnxruntime with ")


async def test_the_command_shows_it(mnist: Serving) -> None:
    await measured(mnist)
    addresses = ("--inference", mnist.plane.grpc_address, "--control", f"127.0.0.1:{mnist.control.port}")
    words = ["model", "engines", "mnist/1", *addresses]
    shown = await asyncio.to_thread(CliRunner().invoke, batchyard, words)
    trials = [line.split("\t")[:3] for line in shown.stdout.splitlines() if line.startswith("onnxruntime\t")]
    assert trials[0] == ["onnxruntime", "fp32", "1"]
    told = await asyncio.to_thread(CliRunner().invoke, batchyard, [*words, "--json"])
    assert json.loads(told.stdout)["chosen"][-1]["up_to"] == 128
