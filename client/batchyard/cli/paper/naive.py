"""Section 2 of the paper: normalisation that gradient descent does not know of; and normalising after the sigmoid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from batchyard.cli.paper import placement
from batchyard.cli.paper.experiment import Analysis, Experiment, Figure, Finding, Panel, Table, line, steps
from batchyard.cli.paper.experiment import percent as p
from batchyard.cli.paper.history import History, Series
from batchyard.cli.paper.naive_runs import KINDS, QUICK, RATES, keys, runs

LEAST_POWER = 0.25
"""A norm that has grown at least as this power of the number of steps, over the last half, has no bound in sight."""
STANDS_STILL = 0.9
"""The last quarter's mean loss over the third quarter's, at least: then the loss stands still."""
GUESSING = math.log(10)
"""The loss of guessing one of ten classes."""


def bias_norm(history: History) -> Series:
    """The root of the summed squares of all biases that the statistics show, over steps."""
    totals: dict[int, float] = {}
    for points in history.layers.values():
        for point in points:
            if point.bias_norm is not None and math.isfinite(point.bias_norm):
                totals[point.step] = totals.get(point.step, 0.0) + point.bias_norm**2
    return [(step, total**0.5) for step, total in sorted(totals.items())]


def analyse(histories: Mapping[str, History], _: Mapping[str, Any]) -> Analysis:
    """Bias norms and losses side by side; then BN beside standardising after the sigmoid."""
    norms = {key: bias_norm(history) for key, history in histories.items()}
    return Analysis(
        findings=[
            _grows(norms["naive-x10"]),
            _stands_still(histories["naive-x10"], histories["bn-x10"]),
            placement.stays_in_place(histories),
            placement.bears_high_rates(histories),
            placement.before_or_after(histories),
        ],
        table=_table(histories, norms),
        figures=[_naive(histories, norms), placement.figure(histories)],
        differs=DIFFERS,
        numbers={
            "bias_norm": {key: series[-1][1] for key, series in norms.items() if series},
            "bias_power": power(norms["naive-x10"]),
            "widening": {key: placement.widening(histories[key]) for key in ("bn-x1", "post-x1")},
            "target": placement.target(histories),
        },
    )


def power(series: Series) -> float:
    """The power of the number of steps that a series has grown as over its last half; 0 for one that is too short."""
    if len(series) < 2:
        return 0.0
    (middle, at_middle), (end, at_end) = series[len(series) // 2], series[-1]
    return math.log(at_end / at_middle) / math.log(end / middle)


def _grows(norm: Series) -> Finding:
    (_, middle), (_, end) = norm[len(norm) // 2], norm[-1]
    grown = power(norm)
    return Finding(
        claim="normalised outside the gradient, the bias grows without end",
        paper='"b will grow indefinitely" (section 2)',
        ours=f"norm {norm[0][1]:.2f} after the first step, {middle:.1f} half way, {end:.1f} at the end: over the last "
        f"half as power {grown:.2f} of the number of steps",
        came_out=grown > LEAST_POWER,
    )


def _stands_still(naive: History, bn: History) -> Finding:
    losses = [value for _, value in naive.loss]
    quarter = max(1, len(losses) // 4)
    third, last = losses[-2 * quarter : -quarter], losses[-quarter:]
    ratio = (sum(last) / len(last)) / (sum(third) / len(third))
    ends = f"{losses[-1]:.2f} at the end, BN's {bn.loss[-1][1]:.3f}; guessing has {GUESSING:.2f}"
    ours = f"the last quarter's loss is {ratio:.2f} of the third's: {ends}"
    if naive.diverged:
        ours = "the loss was no longer finite: the model blew up"
    return Finding(
        claim="meanwhile the loss stands still, or the model blows up",
        paper='"while the loss remains fixed"; "the model blows up" in their first experiments',
        ours=ours,
        came_out=bool(naive.diverged) or ratio > STANDS_STILL,
    )


def _table(histories: Mapping[str, History], norms: Mapping[str, Series]) -> Table:
    rows, target = [], placement.target(histories)
    for key, kind, rate in keys():
        history, norm = histories[key], norms[key]
        grown = f"{norm[0][1]:.2f} to {norm[-1][1]:.2f}" if norm else "no bias"
        width = f"{placement.widening(history):.1f}" if history.layers else ""
        loss = "diverged" if history.diverged else f"{history.loss[-1][1]:.3f}"
        accuracy, reached = p(history.final_accuracy), steps(history.steps_to(target))
        rows.append([kind.words, f"{rate:g}", grown, width, loss, accuracy, reached])
    columns = (
        "network", "learning rate", "norm of the biases", "inputs of a layer widen by", "loss at the end",
        "accuracy at the end", f"steps to {p(target)}",
    )  # fmt: skip
    return Table(columns=columns, rows=rows)


def _naive(histories: Mapping[str, History], norms: Mapping[str, Series]) -> Figure:
    compared = [(f"{name}-x10", KINDS[name].words, i) for i, name in enumerate(("bn", "naive", "detached"))]
    panels = [
        Panel(
            title="Norm of the hidden layers' biases",
            lines=[line(words, norms[key], i) for key, words, i in compared if norms[key]],
            y="L2 norm",
        ),
        Panel(
            title="Training loss",
            lines=[line(words, histories[key].loss, i) for key, words, i in compared],
            y="cross-entropy",
            log_y=True,
            level=(GUESSING, "guessing"),
        ),
    ]
    caption = f"Biases and loss over training steps, all at learning rate {RATES['x10']:g}"
    return Figure(name="naive", caption=caption, panels=panels)


DIFFERS = [
    "Section 2 of the paper is an argument about one layer that subtracts its mean. Here all three hidden layers are "
    "normalised by mean and variance, both constants to the gradient, and the weights go on learning.",
    "Normalisation takes away not only what a step adds to the bias, but also what it adds to the length of the "
    "weights: both grow. Each step is divided by a deviation that grows with the weights, so that weights and bias "
    "follow about the square root of the number of steps, not that number. It has no bound either.",
    "The layer of the paper's argument has no beta. With gamma and beta (the next row) the bias stops growing and the "
    "training loss falls: beta's gradient is the bias's but for a scale, so it may be that as beta settles it ends for "
    "both. Held-out accuracy, which goes by moving averages of means and variances, stays low. At a learning rate of "
    "0.1 both networks learn, badly, while the bias grows; they fail at rates that BN bears well.",
    "BN needs no bias and has none, so it has no curve among the biases.",
    "The learning rate of the naive network, and from which power of the steps on growth counts as without end "
    f"({LEAST_POWER:g}), were chosen after trial runs had been seen; at rates of 0.1 to 0.5 that network still learns.",
    placement.WHY,
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
