"""Section 2 of the paper: normalisation that gradient descent does not know of; and normalising after the sigmoid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from batchyard.cli.paper.experiment import Analysis, Experiment, Figure, Finding, Panel, Run, Table, line, steps
from batchyard.cli.paper.experiment import percent as p
from batchyard.cli.paper.history import History, Series

MODES = {
    "bn": ("batch", "BN"),
    "detached": ("detached", "normalised outside the gradient"),
    "post": ("standardize_post", "standardised after the sigmoid"),
    "plain": ("none", "not normalised"),
}
QUICK, FULL = 4_000, 50_000
STILL_GROWS = 0.5
"""The second half of training adds at least this share of what the first half added."""
STANDS_STILL = 0.9
"""The last quarter's mean loss over the third quarter's, at least: then the loss stands still."""


def runs(quick: bool) -> Sequence[Run]:
    """The network of section 4.1 with each place and kind of normalisation."""
    length = QUICK if quick else FULL
    return [_run(key, length) for key in MODES]


def _run(key: str, length: int) -> Run:
    norm, words = MODES[key]
    spec = {
        "model": {"architecture": "mlp", "hidden": [100, 100, 100], "activation": "sigmoid", "norm": norm},
        "data": {"dataset": "mnist", "batch_size": 60},
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "steps": length,
        "workers": {"count": 1},
        "evaluate": {"every_steps": length // 40},
        "metrics": {"every_steps": length // 40},
        "seed": 1,
    }
    return Run(key=key, label=f"MNIST MLP, {words}", spec=spec, may_diverge=key == "detached")


def bias_norm(history: History) -> Series:
    """The root of the summed squares of all biases that the statistics show, over steps."""
    totals: dict[int, float] = {}
    for points in history.layers.values():
        for point in points:
            if point.bias_norm is not None and math.isfinite(point.bias_norm):
                totals[point.step] = totals.get(point.step, 0.0) + point.bias_norm**2
    return [(step, total**0.5) for step, total in sorted(totals.items())]


def analyse(histories: Mapping[str, History], _: Mapping[str, Any]) -> Analysis:
    """Bias norms and losses side by side."""
    norms = {key: bias_norm(history) for key, history in histories.items()}
    target = histories["plain"].best_accuracy
    return Analysis(
        findings=[
            _grows(norms["detached"]),
            _stands_still(histories["detached"], histories["bn"]),
            _before_or_after(histories, target),
        ],
        table=_table(histories, norms, target),
        figures=[_figure(histories, norms)],
        differs=DIFFERS,
        numbers={"bias_norm": {key: series[-1][1] for key, series in norms.items() if series}},
    )


def growth(series: Series) -> tuple[float, float]:
    """What the first and the second half of the points add."""
    values = [value for _, value in series]
    middle = len(values) // 2
    return values[middle] - values[0], values[-1] - values[middle]


def _grows(norm: Series) -> Finding:
    first, second = growth(norm)
    return Finding(
        claim="normalised outside the gradient, the bias grows without end",
        paper='"b will grow indefinitely" (section 2)',
        ours=f"norm {norm[-1][1]:.2f} at the end: the first half of training adds {first:.2f}, the second {second:.2f}",
        came_out=second > STILL_GROWS * first > 0,
    )


def _stands_still(detached: History, bn: History) -> Finding:
    losses = [value for _, value in detached.loss]
    quarter = max(1, len(losses) // 4)
    third, last = losses[-2 * quarter : -quarter], losses[-quarter:]
    ratio = (sum(last) / len(last)) / (sum(third) / len(third))
    ends = f"at the end {losses[-1]:.3f}, BN's {bn.loss[-1][1]:.3f}"
    ours = f"the last quarter's loss is {ratio:.2f} of the third's; {ends}"
    if detached.diverged:
        ours = "the loss was no longer finite: the model blew up"
    return Finding(
        claim="meanwhile the loss stands still, or the model blows up",
        paper='"while the loss remains fixed"; "the model blows up" in their first experiments',
        ours=ours,
        came_out=bool(detached.diverged) or ratio > STANDS_STILL,
    )


def _before_or_after(histories: Mapping[str, History], target: float) -> Finding:
    before, after = histories["bn"].steps_to(target), histories["post"].steps_to(target)
    return Finding(
        claim="normalising before the nonlinearity beats standardising after it (Gulcehre & Bengio)",
        paper="argued in sections 3.2 and 5, not measured",
        ours=f"{steps(before)} against {steps(after)} steps to the plain network's best of {p(target)}; at the end "
        f"{p(histories['bn'].final_accuracy)} against {p(histories['post'].final_accuracy)}",
        came_out=before is not None and (after is None or before < after),
    )


def _table(histories: Mapping[str, History], norms: Mapping[str, Series], target: float) -> Table:
    rows = []
    for key, (_, words) in MODES.items():
        history, norm = histories[key], norms[key]
        grown = f"{norm[0][1]:.2f} to {norm[-1][1]:.2f}" if norm else "no bias"
        loss = "diverged" if history.diverged else f"{history.loss[-1][1]:.3f}"
        rows.append([words, grown, loss, p(history.final_accuracy), steps(history.steps_to(target))])
    columns = ("network", "norm of the biases", "loss at the end", "accuracy at the end", f"steps to {p(target)}")
    return Table(columns=columns, rows=rows)


def _figure(histories: Mapping[str, History], norms: Mapping[str, Series]) -> Figure:
    numbered = list(enumerate(MODES.items()))
    panels = [
        Panel(
            title="Norm of the hidden layers' biases",
            lines=[line(words, norms[key], i) for i, (key, (_, words)) in numbered if norms[key]],
            y="L2 norm",
        ),
        Panel(
            title="Training loss",
            lines=[line(words, histories[key].loss, i) for i, (key, (_, words)) in numbered],
            y="cross-entropy",
            log_y=True,
        ),
        Panel(
            title="Held-out accuracy",
            lines=[line(words, histories[key].accuracy, i) for i, (key, (_, words)) in numbered],
            y="accuracy",
        ),
    ]
    return Figure(name="naive", caption="Biases, loss and accuracy over training steps", panels=panels, columns=3)


DIFFERS = [
    "Section 2 of the paper is an argument about one layer that subtracts its mean. Here all three hidden layers are "
    "normalised by mean and variance, both constants to the gradient, and gamma, beta and the weights go on learning: "
    "the loss need not stand still for the bias to run away.",
    "The paper's layer has no beta. Ours does, and its gradient is the bias's but for a scale: as beta settles the "
    "bias slows down. The paper's own case, without beta, is a test of the library: tests/nn/test_normalizers.py.",
    "BN needs no bias and has none, so it has no curve among the biases.",
    f"The quick run stops after {QUICK:,} steps.",
]

EXPERIMENT = Experiment(
    name="naive",
    title="Naive normalisation: outside the gradient, and after the nonlinearity",
    about="Section 2: what becomes of a bias whose effect normalisation takes away without the gradient knowing it. "
    "Sections 3.2 and 5: BN before the nonlinearity, standardisation after it (Gulcehre & Bengio, arXiv 1301.4083).",
    runs=runs,
    analyse=analyse,
)
