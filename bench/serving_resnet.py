"""ResNet-18 at 32x32, served, in process, and unfolded. A part of bench/serving.py.

The network has random weights and the statistics of real activations; it is folded and certified as training does it,
with input normalisation in the graph, and its input is flat [N, 3072]: the peers' start scripts know no other. Our
plane and MLServer are sent UINT8 pixels, Triton, whose script declares FP32, FP32.

Twice the rate of eager torch is out of reach on the machine of bench/results in fp32, which is what is certified. A row
takes 1.11 GFLOP; eager torch does 334 rows a second, and twice as many are 742 GFLOP/s: fused multiply-adds in
registers come to 500 on its two cores. OpenVINO does 398 rows a second in batches of 32, 442 GFLOP/s. In bf16 it is in
reach: bench/serving_precision.py. The calculation is in docs/open-inference.md.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from torch import nn

from batchyard import models
from batchyard.artifact import writer
from batchyard.artifact.manifest import ONNX_MODEL, SAMPLES, Signature
from batchyard.nn import InputNormalization, certify, fold
from batchyard.serving.engines.catalogue import ENGINE_NAMES
from batchyard.serving.loading import Loaded, Loader, Wanted
from batchyard.serving.settings import Limits
from batchyard.training import graph
from batchyard.training.fold_record import certified, fold_entries
from bench.resnet import of_torchs_layers, trained_like
from bench.small_artifact import SmallNetwork, manifest_of

IMAGE = (3, 32, 32)
FEATURES = 3 * 32 * 32
CLASSES = 10
SAMPLE_COUNT = 32
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Of CIFAR-10's training images, channel by channel, in units of 255."""

IN_PROCESS_SECONDS = 2.0


def network(seed: int = 0) -> nn.Sequential:
    """The unfolded network of torch's own layers, in evaluation mode: pixels [N, 3, 32, 32] to logits [N, 10]."""
    plan = models.Plan(image_shape=IMAGE, classes=CLASSES, activation="relu")
    return nn.Sequential(InputNormalization(MEAN, STD), trained_like(of_torchs_layers("resnet18", plan, seed))).eval()


def pixels(rows: int, seed: int = 1) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Random raw pixels [rows, 3072]."""
    return np.random.default_rng(seed).integers(0, 256, (rows, FEATURES), np.uint8)


def publish(uri: Path, model: nn.Module, name: str) -> str:
    """Folds, certifies and writes the artifact; returns its manifest's sha256."""
    images = torch.tensor(pixels(SAMPLE_COUNT, seed=2).reshape(-1, *IMAGE)).float()
    folded = fold(model, (images[:2],))
    certificate = certify(folded, model, (images,))
    served = graph.export(nn.Sequential(nn.Unflatten(1, IMAGE), folded.module), images[:2].flatten(1))
    flat = images.flatten(1).numpy()
    record = certified(certificate, graph.run(served, flat))
    manifest = dataclasses.replace(
        manifest_of(SmallNetwork(row_shape=(FEATURES,), classes=CLASSES), name),
        parameter_count=sum(parameter.numel() for parameter in model.parameters()),
        inputs=(Signature(name=graph.INPUT, datatype="FP32", shape=(-1, FEATURES)),),
        fold_report=fold_entries(folded),
        certificate=record,
    )
    samples = {"inputs": flat, "outputs": certificate.expected.numpy()}
    return writer.write(str(uri), manifest, {ONNX_MODEL: served, SAMPLES: safetensors.numpy.save(samples)})


def eager(model: nn.Module, rows: int) -> Callable[[], object]:
    """One batch through the unfolded network, on all cores."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    images = torch.tensor(pixels(rows).reshape(-1, *IMAGE))

    def call() -> object:
        with torch.inference_mode():
            return model(images)

    return call


@contextmanager
def chosen_engine(
    artifact: Path, sha256: str, name: str, cache: Path, rows: int
) -> Iterator[tuple[str, Callable[[], object]]]:
    """The name of the engine that our plane chooses, and one batch through it in this process."""
    wanted = Wanted(model=name, version=1, artifact_uri=str(artifact), manifest_sha256=sha256)
    loader = Loader(cache, ENGINE_NAMES)
    loaded = asyncio.run(_fastest(loader, wanted, Limits().max_batch))
    batch = pixels(rows).astype(np.float32)
    try:
        yield loaded.engine.name, lambda: loaded.engine.run(batch)
    finally:
        loaded.engine.close()
        loader.close()


async def _fastest(loader: Loader, wanted: Wanted, max_batch: int) -> Loaded:
    """What serves once all engines were tried."""
    loaded = await loader.load(wanted, max_batch)
    return await loader.improve(wanted, loaded, max_batch) if loaded.timings.measuring else loaded


def rates(calls: Mapping[str, Callable[[], object]], rows: int) -> dict[str, Callable[[], float]]:
    """What measures the samples a second of each call, which takes so many rows."""
    return {name: partial(_samples_per_second, call, rows) for name, call in calls.items()}


def _samples_per_second(call: Callable[[], object], rows: int) -> float:
    call()
    began, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < IN_PROCESS_SECONDS:
        call()
        count += rows
    return count / elapsed
