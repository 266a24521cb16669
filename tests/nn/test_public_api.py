"""The public names of batchyard.nn and how they are called; other rooms and users build on them."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import batchyard.nn as by

SIGNATURES = {
    "SyncBatchNorm": "num_features, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True, process_group=None",
    "convert_sync_batchnorm": "module, process_group=None",
    "fold": "model, example_inputs",
    "certify": "folded, model, samples",
    "layer_probe": "folded, model",
    "adapt_statistics": "model, inputs, prior",
    "population_statistics": "model, batches, method='alg2', process_group=None",
    "ActivationStats": "model",
    "normalizer": "name, num_features, **options",
    "InputNormalization": "mean, std, scale=255.0",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_as_documented(name: str) -> None:
    parameters = inspect.signature(getattr(by, name)).parameters.values()
    given = [p.replace(annotation=p.empty) for p in parameters if p.kind is not p.KEYWORD_ONLY]
    assert ", ".join(map(str, given)) == SIGNATURES[name]


def test_every_public_name_is_there() -> None:
    assert set(SIGNATURES) < set(by.__all__)
    assert all(hasattr(by, name) for name in by.__all__)


def test_results_have_the_documented_fields() -> None:
    assert {"module", "report"} <= set(by.FoldedModel.__dataclass_fields__)
    assert {"name", "status", "into", "reason"} <= set(by.FoldEntry.__dataclass_fields__)
    assert {"passed", "max_error", "bound", "digest", "expected"} <= set(by.Certificate.__dataclass_fields__)
    layer = {"name", "p15", "p50", "p85", "saturated", "dead", "drift", "worker_spread", "smallest_batch"}
    assert layer <= set(by.LayerActivations.__dataclass_fields__)


def test_it_imports_alone_and_without_the_compiler() -> None:
    code = (
        "import sys, batchyard.nn; heavy = ('batchyard.', 'ray', 'grpc', 'onnx', 'sympy', 'torch._dynamo'); "
        "print(*sorted(m for m in sys.modules if m.startswith(heavy)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert [m for m in loaded if not m.startswith("batchyard.nn")] == []
