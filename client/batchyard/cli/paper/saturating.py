"""Section 4.2.2, end: with BN a network of sigmoids trains; without, a deep one stays at chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from batchyard.cli.paper.experiment import CHANCE, Analysis, Experiment, Figure, Finding, Panel, Run, Table, line
from batchyard.cli.paper.experiment import percent as p
from batchyard.cli.paper.history import History

DEPTHS = (4, 8, 12)
"""Hidden layers of 100 sigmoid units."""
KINDS = {"bn": ("batch", "with BN"), "plain": ("none", "without BN")}
QUICK, FULL = 3_000, 50_000
AT_CHANCE, TRAINED = 1.5 * CHANCE, 0.8
"""Best accuracies: below the first a network has learnt nothing, above the second it has."""
DEEP = 8
"""From this many hidden layers on the plain network is expected to stay at chance."""


def runs(quick: bool) -> Sequence[Run]:
    """Networks of each depth, with and without BN."""
    length = QUICK if quick else FULL
    return [_run(kind, depth, length) for depth in DEPTHS for kind in KINDS]


def _run(kind: str, depth: int, length: int) -> Run:
    norm, words = KINDS[kind]
    spec = {
        "model": {"architecture": "mlp", "hidden": [100] * depth, "activation": "sigmoid", "norm": norm},
        "data": {"dataset": "mnist", "batch_size": 60},
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "steps": length,
        "workers": {"count": 1},
        "evaluate": {"every_steps": length // 20},
        "metrics": {"every_steps": length // 20},
        "seed": 1,
    }
    return Run(key=f"{kind}-{depth}", label=f"{depth} layers of sigmoids {words}", spec=spec)


def analyse(histories: Mapping[str, History], _: Mapping[str, Any]) -> Analysis:
    """The best accuracy at each depth."""
    best = {key: history.best_accuracy for key, history in histories.items()}
    return Analysis(
        findings=[_trains(best), _stays(best)],
        table=_table(histories),
        figures=[_figure(histories)],
        differs=DIFFERS,
        numbers={"best_accuracy": best},
    )


def _trains(best: Mapping[str, float]) -> Finding:
    return Finding(
        claim="with BN networks of sigmoids train, however deep",
        paper="Inception with sigmoids and BN: 69.8%, against 72.2% with ReLU and without BN",
        ours=", ".join(f"{p(best[f'bn-{depth}'])} with {depth} layers" for depth in DEPTHS),
        came_out=all(best[f"bn-{depth}"] > TRAINED for depth in DEPTHS),
    )


def _stays(best: Mapping[str, float]) -> Finding:
    return Finding(
        claim="without BN a deep network of sigmoids stays at chance",
        paper="Inception with sigmoids never got better than 1 in 1000",
        ours=", ".join(f"{p(best[f'plain-{depth}'])} with {depth} layers" for depth in DEPTHS),
        came_out=all(best[f"plain-{depth}"] < AT_CHANCE for depth in DEPTHS if depth >= DEEP),
    )


def _table(histories: Mapping[str, History]) -> Table:
    rows = []
    for depth in DEPTHS:
        for kind, (_, words) in KINDS.items():
            history = histories[f"{kind}-{depth}"]
            first_layer = next(iter(history.layers.values()))[-1]
            spread = f"{first_layer.p85 - first_layer.p15:.2f}"
            rows.append([str(depth), words, p(history.best_accuracy), f"{history.loss[-1][1]:.3f}", spread])
    columns = ("hidden layers", "network", "best accuracy", "training loss at the end", "p85 - p15 of the first layer")
    return Table(columns=columns, rows=rows)


def _figure(histories: Mapping[str, History]) -> Figure:
    panels = [
        Panel(
            title=f"{words[0].upper()}{words[1:]}",
            lines=[line(f"{depth} layers", histories[f"{kind}-{depth}"].accuracy, i) for i, depth in enumerate(DEPTHS)],
            y="held-out accuracy",
            level=(CHANCE, "chance"),
        )
        for kind, (_, words) in KINDS.items()
    ]
    caption = "Held-out accuracy of networks of sigmoids, 4, 8 and 12 hidden layers deep"
    return Figure(name="accuracy", caption=caption, panels=panels, shared_y=True)


DIFFERS = [
    "The paper replaces the ReLUs of Inception by sigmoids, on ImageNet. Here section 4.1's network on MNIST "
    "grows from 4 to 12 hidden layers.",
    "The learning rate is the same for all, 0.1, and initial weights are Gaussian of standard deviation 0.05. A plain "
    "network with weights made for sigmoids would begin to learn at a greater depth than this one.",
    f"The quick run stops after {QUICK:,} steps.",
]

EXPERIMENT = Experiment(
    name="saturating",
    title="Saturating nonlinearities: deep networks of sigmoids",
    about="Section 4.2.2: sigmoids in a deep network, with BN before each and without.",
    runs=runs,
    analyse=analyse,
)
