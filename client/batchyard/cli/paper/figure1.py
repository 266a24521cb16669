"""Figure 1 of the paper: what BN does to the accuracy and to the activations of a small network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from batchyard.cli.paper.experiment import Analysis, Experiment, Figure, Finding, Line, Panel, Run, Table, line, steps
from batchyard.cli.paper.experiment import percent as p
from batchyard.cli.paper.history import History, LayerPoint

NAMES = {"bn": "with BN", "plain": "without BN"}
SPEC = {
    "data": {"dataset": "mnist", "batch_size": 60},
    "optimizer": {"name": "sgd", "learning_rate": 0.1},
    "workers": {"count": 1},
    "seed": 1,
}
HIDDEN = [100, 100, 100]
FULL, QUICK = 50_000, 10_000
EARLY = 0.1
"""Share of the steps within which the median of a layer is still allowed to move."""


def runs(quick: bool) -> Sequence[Run]:
    """The same network with and without BN."""
    length = QUICK if quick else FULL
    cadence = {"evaluate": {"every_steps": length // 50}, "metrics": {"every_steps": length // 100}}
    return [
        Run(key=key, label=f"MNIST MLP {NAMES[key]}", spec={"model": _model(norm), **SPEC, "steps": length, **cadence})
        for key, norm in (("bn", "batch"), ("plain", "none"))
    ]


def _model(norm: str) -> dict[str, Any]:
    return {"architecture": "mlp", "hidden": HIDDEN, "activation": "sigmoid", "norm": norm}


def analyse(histories: Mapping[str, History], _: Mapping[str, Any]) -> Analysis:
    """Accuracy over steps, and the percentiles of every hidden layer."""
    bn, plain = histories["bn"], histories["plain"]
    return Analysis(
        findings=_findings(bn, plain),
        table=_table(histories),
        figures=[_accuracy(histories), _last_layer(histories), _every_layer(histories)],
        differs=DIFFERS,
        numbers={key: _numbers(history) for key, history in histories.items()},
    )


def _findings(bn: History, plain: History) -> list[Finding]:
    target = plain.best_accuracy
    reached, took = bn.steps_to(target), plain.steps_to(target)
    wander = {name: drift(last_layer(history)) for name, history in (("bn", bn), ("plain", plain))}
    return [
        Finding(
            claim="the network with BN has the higher accuracy at the end",
            paper="higher throughout (Figure 1a)",
            ours=f"{p(bn.final_accuracy)} against {p(plain.final_accuracy)}",
            came_out=bn.final_accuracy > plain.final_accuracy,
        ),
        Finding(
            claim="the network with BN gets to the other's best accuracy in fewer steps",
            paper="its curve is above the other's all along (Figure 1a)",
            ours=f"{steps(reached)} steps to {p(target)}, which took the other {steps(took)}",
            came_out=reached is not None and took is not None and reached < took,
        ),
        Finding(
            claim="with BN the inputs of the last sigmoids are more stable",
            paper="percentiles stay flat with BN and wander without (Figure 1b, c)",
            ours=f"they move by {wander['bn']:.2f} with BN and {wander['plain']:.2f} without, in units of the distance "
            "between p15 and p85, from a tenth of the training to its end",
            came_out=wander["bn"] < wander["plain"],
        ),
    ]


def last_layer(history: History) -> list[LayerPoint]:
    """The statistics of the last hidden layer."""
    return list(history.layers.values())[-1]


def drift(points: Sequence[LayerPoint]) -> float:
    """How far the 15th, 50th and 85th percentiles move after the first tenth of training, at most: the largest range
    of the three over the mean distance between the outer two.
    """
    later = [point for point in points if point.step >= EARLY * points[-1].step]
    width = sum(point.p85 - point.p15 for point in later) / len(later)
    series = [[point.p15 for point in later], [point.p50 for point in later], [point.p85 for point in later]]
    return max(max(values) - min(values) for values in series) / width


def _table(histories: Mapping[str, History]) -> Table:
    rows = []
    for key, history in histories.items():
        for name, points in history.layers.items():
            first, last = points[0], points[-1]
            rows.append([NAMES[key], name, _band(first), _band(last), f"{drift(points):.2f}", p(last.saturated)])
    columns = ("network", "layer", "p15 / p50 / p85 at step 1", "at the end", "moves by", "saturated at the end")
    return Table(columns=columns, rows=rows)


def _band(point: LayerPoint) -> str:
    return f"{point.p15:.2f} / {point.p50:.2f} / {point.p85:.2f}"


def _accuracy(histories: Mapping[str, History]) -> Figure:
    lines = [line(NAMES[key], history.accuracy, i) for i, (key, history) in enumerate(histories.items())]
    late = [
        line(NAMES[key], [point for point in history.accuracy if point[1] >= 0.9], i)
        for i, (key, history) in enumerate(histories.items())
    ]
    panels = [
        Panel(title="Held-out accuracy", lines=lines, y="accuracy"),
        Panel(title="The same, from 90% on", lines=late, y="accuracy"),
    ]
    return Figure(name="accuracy", caption="Figure 1a: accuracy on the 10,000 test images over training", panels=panels)


def _last_layer(histories: Mapping[str, History]) -> Figure:
    panels = [
        Panel(
            title=NAMES[key].replace("with", "With"),
            lines=[_percentiles(last_layer(history), i)],
            y="input of the sigmoids",
        )
        for i, (key, history) in enumerate(histories.items())
    ]
    caption = "Figure 1b, c: median and 15th to 85th percentile of what the last hidden layer's sigmoids are given"
    return Figure(name="last-layer", caption=caption, panels=panels, shared_y=True)


def _every_layer(histories: Mapping[str, History]) -> Figure:
    panels = [
        Panel(title=f"{NAMES[key]}: {name}", lines=[_percentiles(points, i)])
        for i, (key, history) in enumerate(histories.items())
        for name, points in history.layers.items()
    ]
    caption = "The same for every hidden layer: with BN above, without below; each row has its own scale"
    return Figure(name="every-layer", caption=caption, panels=panels, columns=len(HIDDEN), shared_y=True)


def _percentiles(points: Sequence[LayerPoint], colour: int) -> Line:
    return Line(
        label="",
        xs=[point.step for point in points],
        ys=[point.p50 for point in points],
        low=[point.p15 for point in points],
        high=[point.p85 for point in points],
        colour=colour,
    )


def _numbers(history: History) -> dict[str, Any]:
    return {"final_accuracy": history.final_accuracy, "last_layer_moves_by": drift(last_layer(history))}


DIFFERS = [
    "The paper shows one typical sigmoid of the last hidden layer. A job reports percentiles over all units of a layer "
    "together, so the bands are those of 100 units: wider than one unit's, and smoother.",
    "The paper gives neither learning rate nor initial weights: here SGD without momentum at 0.1 and Gaussian weights "
    "of standard deviation 0.05 for both networks.",
    "The paper's inputs are binary images. These are grey values, normalised by the mean and standard deviation of the "
    "training set.",
    f"The quick run stops after {QUICK:,} of the {FULL:,} steps.",
]

EXPERIMENT = Experiment(
    name="figure1",
    title="Figure 1: accuracy and activations on MNIST",
    about="Section 4.1: three hidden layers of 100 sigmoid units on MNIST, batches of 60, with and without BN before "
    "each sigmoid.",
    runs=runs,
    analyse=analyse,
)
