"""Models out of and into the real service: export, import, ensembles; then what is served answers like the original."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from batchyard.cli import local
from batchyard.client import Client, NotFoundError
from batchyard.client.predictions import softmax
from batchyard.data import load

ROOT = Path(__file__).parents[2]
TEST = load("digits", []).test
PIXELS = TEST.images.astype(np.float32)
Command = Callable[..., str]


def call(folder: Path, *arguments: str | Path, code: int = 0) -> str:
    """What `batchyard ARGUMENTS` prints, run in `folder`."""
    command = [sys.executable, "-m", "batchyard.cli", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BATCHYARD_")}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which a service runs, with the model digits, version 1, of a job."""
    folder = tmp_path_factory.mktemp("service")
    free = [f"--{plane}=127.0.0.1:0" for plane in ("grpc", "http", "inference-grpc", "inference-http")]
    call(folder, "up", *free, "--executor", "local", "--workers", "1")
    try:
        job = ROOT / "examples" / "digits-mlp.yaml"
        call(folder, "submit", job, "--follow", "--set", "steps=100", "--set", "workers.count=1")
        yield folder
    finally:
        call(folder, "down")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    """A client of that service."""
    running = local.find(folder / "batchyard-data")
    assert running is not None
    with Client(running.facts["grpc"], running.facts["inference_grpc"], retry_for=60) as client:
        yield client


@pytest.fixture(scope="module")
def batch_norm_mlp() -> nn.Sequential:
    """A network as somebody else may have trained it, with our names: 64 pixels, one hidden layer, ten classes."""
    torch.manual_seed(3)
    layers = {"flatten": nn.Flatten(), "linear1": nn.Linear(64, 24, bias=False), "norm1": nn.BatchNorm1d(24)}
    network = nn.Sequential()
    for name, layer in {**layers, "relu1": nn.ReLU(), "logits": nn.Linear(24, 10)}.items():
        network.add_module(name, layer)
    with_statistics(network)
    return network


@pytest.fixture(scope="module")
def imported(folder: Path, batch_norm_mlp: nn.Sequential) -> dict[str, Any]:
    """The version that its import made."""
    save_file(batch_norm_mlp.state_dict(), folder / "mlp.safetensors")
    described = {
        "model": {"architecture": "mlp", "hidden": [24], "activation": "relu", "norm": "batch"},
        "input": {"shape": [1, 8, 8], "mean": [0.3], "std": [0.4], "scale": 16},
        "classes": [str(digit) for digit in range(10)],
    }
    (folder / "mlp.yaml").write_text(yaml.safe_dump(described))
    np.savez(folder / "test.npz", inputs=TEST.images, labels=TEST.labels)
    files = ["--weights", "mlp.safetensors", "--architecture", "mlp.yaml", "--samples", "test.npz"]
    version = json.loads(call(folder, "model", "import", "elsewhere", *files, "--alias", "production", "--json"))
    assert isinstance(version, dict)
    return version


def with_statistics(network: nn.Module) -> Any:
    """The network with the statistics and scales of no fresh network, in evaluation mode."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
            nn.init.normal_(layer.weight, 0.2, 1.0)
            nn.init.normal_(layer.bias)
    return network.eval()


@torch.no_grad()
def answers(network: nn.Module, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(network(torch.from_numpy(inputs)).numpy())


def served(client: Client, model: str, inputs: NDArray[np.float32], name: str = "pixels") -> NDArray[Any]:
    """The one output that the inference plane gives, once it serves the model."""
    deadline = time.monotonic() + 60
    while True:
        try:
            (output,) = client.infer(model, {name: inputs}).outputs.values()
            return np.asarray(output)
        except NotFoundError:  # it has not heard of the model yet
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_an_onnx_export_answers_like_the_service_and_says_what_it_is(folder: Path, client: Client) -> None:
    paths = call(folder, "model", "export", "digits@production", "--format", "onnx", "--out", "onnx").splitlines()
    assert sorted(paths) == ["onnx/README.md", "onnx/model.json", "onnx/model.onnx"]
    described = json.loads((folder / "onnx" / "model.json").read_text())
    assert described["classes"] == [str(digit) for digit in range(10)]
    assert described["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"pixels": PIXELS})
    assert np.abs(logits[:64] - served(client, "digits", PIXELS[:64])).max() <= described["certificate"]["bound"]


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.11's own way of loading
def test_a_torch_program_takes_any_batch_and_answers_alike(folder: Path) -> None:
    call(folder, "model", "export", "digits/1", "--format", "torch-export", "--out", "torch")
    network = torch.export.load(folder / "torch" / "model.pt2").module()
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    for rows in (1, 5, len(PIXELS)):
        (logits,) = session.run(None, {"pixels": PIXELS[:rows]})
        assert np.abs(answers(network, PIXELS[:rows]) - logits).max() < 1e-4
    assert os.fsencode(ROOT) not in (folder / "torch" / "model.pt2").read_bytes()


@pytest.mark.parametrize("backend", ["onnxruntime", "python"])
def test_a_triton_repository_is_complete(folder: Path, backend: str) -> None:
    call(folder, "model", "export", "digits", "--format", "triton", "--backend", backend, "--out", backend)
    model = folder / backend / "digits"
    config = (model / "config.pbtxt").read_text()
    assert f'backend: "{backend}"' in config
    assert 'name: "pixels" data_type: TYPE_FP32 dims: [1, 8, 8]' in config
    assert (model / "labels.txt").read_text().split() == [str(digit) for digit in range(10)]
    assert (model / "1" / "model.onnx").read_bytes() == (folder / "onnx" / "model.onnx").read_bytes()
    assert (model / "1" / "model.py").exists() == (backend == "python")


def test_an_export_never_overwrites(folder: Path) -> None:
    told = call(folder, "model", "export", "digits", "--format", "onnx", "--out", "onnx", code=1)
    assert "onnx: exists already" in told


def test_an_export_of_nothing_leaves_nothing(client: Client, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        client.exchange.export("models/digits/versions/99", "onnx", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_imported_weights_are_folded_certified_on_the_users_samples_and_served(
    imported: dict[str, Any], client: Client, batch_norm_mlp: nn.Sequential
) -> None:
    assert imported["origin"] == "imported"
    assert [entry["status"] for entry in imported["fold_report"]] == ["folded"]
    assert imported["certificate_samples"] == "given"
    expected = answers(batch_norm_mlp, ((PIXELS / 16 - 0.3) / 0.4).astype(np.float32))
    assert imported["accuracy_unfolded"] == pytest.approx((expected.argmax(1) == TEST.labels).mean())
    assert np.abs(served(client, "elsewhere", PIXELS[:64]) - expected[:64]).max() < 1e-3


class Residual(nn.Module):
    """A convolutional network with a sum, as exporters see many."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(96, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(x + self.bn2(self.conv2(x)))
        logits: torch.Tensor = self.fc(torch.flatten(self.pool(x), 1))
        return logits


@pytest.mark.filterwarnings("ignore")
def test_an_imported_onnx_file_is_folded_and_served_under_its_own_names(folder: Path, client: Client) -> None:
    torch.manual_seed(5)
    network = with_statistics(Residual())
    torch.onnx.export(
        network, (torch.randn(1, 1, 8, 8),), folder / "net.onnx", input_names=["picture"], output_names=["scores"],
        dynamo=True, optimize=False, external_data=False, verbose=False,
    )  # fmt: skip
    version = json.loads(call(folder, "model", "import", "onnx-net", "--onnx", "net.onnx", "--json"))
    assert [(e["layer"], e["into"]) for e in version["fold_report"]] == [("bn1", "conv1"), ("bn2", "conv2")]
    assert version["certificate_samples"] == "generated"
    inputs = np.random.default_rng(0).standard_normal((9, 1, 8, 8), np.float32)
    assert np.abs(served(client, "onnx-net", inputs, "picture") - answers(network, inputs)).max() < 1e-4


def test_an_ensemble_answers_with_the_mean_of_its_members_softmax(
    folder: Path, client: Client, imported: dict[str, Any]
) -> None:
    members = "digits@production,elsewhere/1"
    version = json.loads(call(folder, "model", "ensemble", "both", "--members", members, "--json"))
    assert version["sources"] == ["models/digits/versions/1", "models/elsewhere/versions/1"]
    assert len(version["fold_report"]) == 4
    each = [softmax(served(client, model, PIXELS[:64])) for model in ("digits", "elsewhere")]
    together = softmax(served(client, "both", PIXELS[:64]))
    assert np.abs(together - np.mean(each, axis=0)).max() < 1e-5


def test_members_with_different_inputs_make_no_ensemble(folder: Path, client: Client) -> None:
    told = call(folder, "model", "ensemble", "wrong", "--members", "digits,onnx-net", code=2)
    assert "members: models/onnx-net/versions/1 has other classes than models/digits/versions/1" in told
