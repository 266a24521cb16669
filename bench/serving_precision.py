# Predicted before the first measurement, from what the engines do in process (2.27 of eager torch, 1.91 of fp32):
#   ResNet-18 in bf16       2.1 of eager torch unfolded in fp32; 1.8 of the same plane in fp32: of the same transport
"""ResNet-18 at 32x32 served in bf16, which its owner has to ask for. A part of bench/serving.py.

Against what it is in fp32: eager torch, unfolded, in this process, and the same plane as it serves by default.
"""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np

from batchyard.artifact.manifest import ONNX_MODEL
from batchyard.artifact.reader import read_samples
from batchyard.oip import Stub, messages
from batchyard.serving.engines.precision import BF16_ERROR
from batchyard.v1.serving_pb2 import ServingSettings
from bench import inference_plane, report, serving_resnet
from bench.contest import Cell, Contest
from bench.oip_target import Artifact, Target
from bench.serving_peers import MissingPeerError

BF16, FP32, EAGER = "ours in bf16", "ours in fp32", "eager torch, unfolded, in fp32"
EAGER_BAR = 2.0


def rows(artifact: Artifact, folders: tuple[Path, Path], cell: Cell, batch: int, rounds: int) -> list[report.Row]:
    """Requests a second, one row each. Raises MissingPeerError where no engine in bf16 serves, with the reasons.

    `folders`: of the two planes. `batch`: rows of one batch of eager torch.
    """
    fp32 = Target(name=FP32, model=artifact.name, tensor="pixels", pixels=np.uint8)
    bound = BF16_ERROR * float(np.abs(read_samples(artifact.folder).outputs).max())
    bf16 = dataclasses.replace(fp32, name=BF16, tolerance=bound)
    asked = ServingSettings(precision=ServingSettings.BF16)
    measuring = Contest(artifact.folder / ONNX_MODEL, serving_resnet.pixels(32))
    with ExitStack() as running:
        start = running.enter_context
        bf16 = start(inference_plane.serving(folders[0], bf16, artifact.folder, artifact.sha256, settings=asked))
        _check_engine(bf16)
        fp32 = start(inference_plane.serving(folders[1], fp32, artifact.folder, artifact.sha256))
        contenders = {target.name: measuring.rate(cell, target) for target in (bf16, fp32)}
        eager = {EAGER: serving_resnet.eager(serving_resnet.network(), batch)}
        measured = report.alternate({**contenders, **serving_resnet.rates(eager, batch)}, rounds)
    return [
        report.compare(f"ResNet-18 at 32x32 in bf16, {cell}", measured, BF16, peer, unit="samples/s", bar=bar)
        for peer, bar in ((EAGER, EAGER_BAR), (FP32, None))
    ]


def _check_engine(target: Target) -> None:
    with grpc.insecure_channel(target.address) as channel:
        config = Stub(channel).ModelConfig(messages.ModelConfigRequest(name=target.model)).config
    told = {name: parameter.string_value for name, parameter in config.parameters.items()}
    if "bf16" not in told["engine"]:
        raise MissingPeerError(f"served by {told['engine']}: {told['engine_timings']}")
