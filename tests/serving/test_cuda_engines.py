"""The engines for NVIDIA GPUs: why they do not run where there is none, and, where there is one, that they are right.

The tests marked `cuda` have not been run yet: no machine that this project is tested on has a GPU.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from batchyard.artifact.reader import Samples
from batchyard.serving.engines import catalogue, measuring
from batchyard.serving.engines.catalogue import CATALOGUE, allowed, open_engine, why_not_here
from batchyard.serving.engines.certificate import check_against_certificate
from batchyard.serving.engines.interface import EngineError, Network
from batchyard.serving.engines.onnxruntime_cuda_engine import open_cuda, open_tensorrt, tensorrt_options
from batchyard.serving.engines.precision import BF16_ERROR
from batchyard.serving.engines.priority import LOWER_PRIORITY
from batchyard.serving.engines.torch_cuda_engine import open_engine as open_torch
from batchyard.serving.engines.torch_engine import read_graph
from bench.small_artifact import SmallNetwork, publish
from tests.serving.convolutions import SmallConvolutions
from tests.serving.harness import TIGHT
from tests.serving.test_engines import NETWORKS, network_in

CUDA_ENGINES = [name for name, entry in CATALOGUE.items() if entry.cuda]
FP32_ENGINES = allowed(CUDA_ENGINES, "fp32")
HAS_CUDA = torch.cuda.is_available()
without_cuda = pytest.mark.skipif(HAS_CUDA, reason="this machine has a GPU")
needs_cuda = pytest.mark.skipif(not HAS_CUDA, reason="needs a CUDA device")


def small(folder: Path) -> Network:
    return network_in(folder, SmallNetwork(seed=1).onnx_model(), (1, 28, 28))


@without_cuda
@pytest.mark.parametrize("engine", CUDA_ENGINES)
def test_without_a_gpu_an_engine_says_why_it_does_not_run(engine: str, tmp_path: Path) -> None:
    assert why_not_here(engine) == "needs an NVIDIA GPU and its driver; this machine shows none"
    with pytest.raises(EngineError, match="needs an NVIDIA GPU"):
        open_engine(engine, small(tmp_path), 1)


@without_cuda
@pytest.mark.parametrize(
    ("opened", "reason"),
    [
        (open_torch, "torch sees no CUDA device"),
        (open_cuda, "has no CUDAExecutionProvider: install onnxruntime-gpu in its place"),
        (open_tensorrt, "has no TensorrtExecutionProvider: install onnxruntime-gpu in its place and TensorRT's"),
    ],
)
def test_a_gpu_that_the_library_cannot_use_is_a_reason_too(opened: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=reason):
        opened(small(tmp_path), 1)


@without_cuda
async def test_the_table_of_times_tells_it_and_no_process_is_started_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path / "artifact", SmallNetwork())
    monkeypatch.setattr("asyncio.create_subprocess_exec", None)
    table = await measuring.measured(tmp_path / "artifact", tuple(CUDA_ENGINES), 8, LOWER_PRIORITY)
    assert [(trial.engine, trial.passed) for trial in table.trials] == [(name, False) for name in CUDA_ENGINES]
    assert {trial.reason for trial in table.trials} == {why_not_here("torch-cuda")}
    assert table.holds_for_other_weights


def test_one_number_of_threads_is_tried_on_a_gpu() -> None:
    assert catalogue.thread_counts("torch-cuda", 8) == [1]
    assert catalogue.thread_counts("onnxruntime", 8) == [1, 8]


def test_the_gpus_are_those_that_the_driver_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "NVIDIA_CARDS", tmp_path)
    assert catalogue.gpus() == []
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA A100\nIRQ:   \t\t 12\n")
    assert catalogue.gpus() == ["NVIDIA A100"]


def test_tensorrt_builds_once_for_every_batch_that_is_common(tmp_path: Path) -> None:
    options = tensorrt_options(small(tmp_path))
    assert options["trt_profile_min_shapes"] == "pixels:1x1x28x28"
    assert options["trt_profile_max_shapes"] == "pixels:1024x1x28x28"
    assert options["trt_engine_cache_path"] == str(tmp_path / "tensorrt")


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_graph_in_bf16_is_within_the_bound_of_bf16(kind: str, tmp_path: Path) -> None:
    model = NETWORKS[kind]
    graph = read_graph(network_in(tmp_path, model.onnx_model(), model.row_shape))
    pixels = model.pixels(20).astype(np.float32)
    rows = torch.from_numpy(pixels).bfloat16()
    answers = graph.to(torch.device("cpu"), torch.bfloat16)(rows).float().numpy()
    expected = model.oracle(pixels)
    assert 0 < np.abs(answers - expected).max() <= BF16_ERROR * np.abs(expected).max()


class Coarse:
    """An engine that is off by as much as it is told."""

    name = "coarse"

    def __init__(self, answers: NDArray[np.float64], error_share: float) -> None:
        self._answers = answers.astype(np.float32)
        self.error_share = error_share

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._answers[: len(rows)]

    def close(self) -> None:
        """Holds nothing."""


@pytest.mark.parametrize(
    ("share", "off", "refusal"),
    [
        (0.25, [[0.5, 0.0]], ""),
        (0.0, [[0.5, 0.0]], "is 0.5 off the certificate's samples; its bound is 0.001"),
        (0.125, [[0.5, 0.0]], "is 0.5 off the certificate's samples; its bound is 0.25"),
        (0.5, [[-0.9, 0.2]], "gives 1 of the certificate's 1 samples another class"),
    ],
)
def test_reduced_precision_has_a_bound_of_its_own_and_keeps_every_class(
    share: float, off: list[list[float]], refusal: str
) -> None:
    expected = np.array([[2.0, 1.0]])
    samples = Samples(inputs=np.zeros((1, 3), np.float32), outputs=expected)
    engine = Coarse(expected + off, share)
    if refusal:
        with pytest.raises(EngineError, match=refusal):
            check_against_certificate(engine, samples, 1e-3, 8)
    else:
        assert check_against_certificate(engine, samples, 1e-3, 8) == 0.5


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("engine", FP32_ENGINES)
def test_an_engine_on_cuda_answers_what_fp64_answers_for_any_batch(engine: str, kind: str, tmp_path: Path) -> None:
    model: SmallNetwork | SmallConvolutions = NETWORKS[kind]
    try:
        opened = open_engine(engine, network_in(tmp_path, model.onnx_model(), model.row_shape), 1)
    except EngineError as error:
        pytest.skip(f"{engine} does not run here: {error}")
    batches = [model.pixels(rows, seed=rows).astype(np.float32) for rows in (1, 7, 2, 33, 7)]
    answers = [opened.run(pixels) for pixels in batches]
    for answer, pixels in zip(answers, batches, strict=True):  # all at the end: no run may change an earlier answer
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, model.oracle(pixels), atol=TIGHT, rtol=0)
    opened.close()


@pytest.mark.cuda
@needs_cuda
def test_bf16_on_cuda_is_within_its_bound(tmp_path: Path) -> None:
    model = SmallNetwork(seed=1)
    engine = open_engine("torch-cuda-bf16", network_in(tmp_path, model.onnx_model(), model.row_shape), 1)
    pixels = model.pixels(40).astype(np.float32)
    expected = model.oracle(pixels)
    assert np.abs(engine.run(pixels) - expected).max() <= BF16_ERROR * np.abs(expected).max()
    engine.close()


@pytest.mark.cuda
@needs_cuda
def test_a_graph_that_one_thread_captured_is_replayed_by_another(tmp_path: Path) -> None:
    model = SmallNetwork(seed=1)
    engine = open_engine("torch-cuda", network_in(tmp_path, model.onnx_model(), model.row_shape), 1)
    pixels = model.pixels(8).astype(np.float32)
    first = engine.run(pixels)
    with ThreadPoolExecutor(1) as elsewhere:
        again = elsewhere.submit(engine.run, pixels).result(timeout=60)
    np.testing.assert_array_equal(first, again)
    engine.close()


@pytest.mark.cuda
@needs_cuda
async def test_engines_on_cuda_and_on_the_cpu_are_measured_in_turns(tmp_path: Path) -> None:
    publish(tmp_path / "artifact", SmallNetwork())
    table = await measuring.measured(tmp_path / "artifact", ("onnxruntime", "torch-cuda"), 16, 0)
    assert [trial.threads for trial in table.trials if trial.engine == "torch-cuda"] == [1]
    assert len([trial for trial in table.trials if trial.passed]) == len({1, len(os.sched_getaffinity(0))}) + 1
