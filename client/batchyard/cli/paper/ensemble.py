"""Section 4.2.3 of the paper: an ensemble of networks with BN, served as one model by the inference plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from batchyard.cli.failures import Failure
from batchyard.cli.paper.experiment import Analysis, Experiment, Figure, Finding, Panel, Run, Table, line
from batchyard.cli.paper.experiment import percent as p
from batchyard.cli.paper.history import History

if TYPE_CHECKING:
    from batchyard.client import Client
    from batchyard.client.tensors import Array

MEMBERS = 6
QUICK, FULL = 800, 20_000
ROWS = 64
"""Images in one request."""
PATIENCE = 120.0
"""Seconds that a version may take to be loaded."""
NAME = "paper-ensemble"
PAPER = "20.1% top-1 error of six, against 25.2% of the best single crop"


def runs(quick: bool) -> Sequence[Run]:
    """Six networks that differ in their seed and label smoothing; each publishes a model of its own."""
    length = QUICK if quick else FULL
    return [_run(member, length) for member in range(1, MEMBERS + 1)]


def _run(member: int, length: int) -> Run:
    spec = {
        "model": {"architecture": "lenet", "activation": "relu", "norm": "batch"},
        "data": {"dataset": "cifar10", "batch_size": 64},
        "optimizer": {"name": "sgd", "learning_rate": 0.15, "momentum": 0.9},
        "schedule": {"name": "cosine"},
        "label_smoothing": 0.0 if member % 2 else 0.1,
        "steps": length,
        "workers": {"count": 1},
        "evaluate": {"every_steps": length // 4},
        "metrics": {"every_steps": length // 8, "activation_statistics": False},
        "publish": {"model": f"{NAME}-{member}"},
        "seed": member,
    }
    return Run(key=f"member-{member}", label=f"member {member}", spec=spec)


def measure(client: Client, histories: Mapping[str, History], test: Path) -> Mapping[str, Any]:
    """Publishes the members as one version and asks the inference plane for all of them, on the images in `test`."""
    images, labels = read_images(test)
    members = [history.model_version for history in histories.values()]
    whole = client.exchange.create_ensemble(NAME, members).name
    right = {name: _right(client, name, images, labels) for name in (*members, whole)}
    return {
        "images": len(labels),
        "members": [float(mean(right[name])) for name in members],
        "ensemble": float(mean(right[whole])),
    }


def read_images(test: Path) -> tuple[Array, Array]:
    """`inputs` and `labels` of an NPZ file. Raises Failure."""
    import numpy as np

    made = "np.savez('test.npz', inputs=t.images, labels=t.labels) of t = batchyard.data.load('cifar10', [FOLDER]).test"
    try:
        with np.load(test, allow_pickle=False) as arrays:
            images, labels = arrays["inputs"], arrays["labels"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{test}: expected an NPZ file with `inputs` and `labels`: {error}"
        raise Failure(what, f"Make it by {made}") from None
    if images.ndim != 4 or labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        given = f"inputs {list(images.shape)} and labels {list(labels.shape)} of {labels.dtype} given"
        raise Failure(f"{test}: {given}; expected [N, C, H, W] and N whole numbers", f"Make it by {made}")
    return images, labels


def _right(client: Client, name: str, images: Array, labels: Array) -> list[bool]:
    """Whether the version's most probable class is the label, for each image."""
    _, model, _, version = name.split("/")
    found: list[bool] = []
    for start in range(0, len(images), ROWS):
        rows = slice(start, start + ROWS)
        answer = client.predict(model, images[rows], version=version, timeout=PATIENCE)
        found += (answer.probabilities.argmax(1) == labels[rows]).tolist()
    return found


def analyse(histories: Mapping[str, History], measured: Mapping[str, Any]) -> Analysis:
    """The members' accuracies and that of their mean."""
    members, whole = measured["members"], measured["ensemble"]
    best = max(members)
    return Analysis(
        findings=[
            Finding(
                claim="the mean of six networks is better than the best of them",
                paper=PAPER,
                ours=f"{p(1 - whole)} error, against {p(1 - best)} of the best and {p(1 - mean(members))} of the mean "
                f"member, through the inference plane on {measured['images']:,} images",
                came_out=whole > best,
            )
        ],
        table=_table(histories, measured),
        figures=[_figure(measured)],
        differs=DIFFERS,
        numbers={"members": members, "ensemble": whole},
    )


def _table(histories: Mapping[str, History], measured: Mapping[str, Any]) -> Table:
    served = zip(histories, measured["members"], strict=True)
    rows = [[key.replace("-", " "), p(histories[key].final_accuracy), p(accuracy)] for key, accuracy in served]
    rows.append(["the ensemble", "-", p(measured["ensemble"])])
    return Table(columns=("network", "accuracy in training", f"served, on {measured['images']:,} images"), rows=rows)


def _figure(measured: Mapping[str, Any]) -> Figure:
    members = list(enumerate(measured["members"], start=1))
    panel = Panel(
        title="Accuracy through the inference plane",
        lines=[line("members", members, 0)],
        x="member",
        y="accuracy",
        level=(measured["ensemble"], "the ensemble"),
        points=True,
    )
    return Figure(name="accuracy", caption="Each member, and the mean of their probabilities", panels=[panel])


DIFFERS = [
    "The paper's six are variants of BN-x30 on ImageNet: larger initial weights, dropout of 5% or 10%, per-activation "
    "BN in the last layers. Here they are small convolutional networks on CIFAR-10, which differ in their seeds, hence "
    "in initial weights and order of the data, and in label smoothing (none or 0.1).",
    "One crop each; the paper's ensemble figures are of many crops, its single network of one.",
    f"The quick run stops after {QUICK} steps.",
]

EXPERIMENT = Experiment(
    name="ensemble",
    title="Ensemble: six networks with BN served as one",
    about="Section 4.2.3: the mean of the probabilities of six networks, served as one model by the inference plane.",
    runs=runs,
    analyse=analyse,
    measure=measure,
)
