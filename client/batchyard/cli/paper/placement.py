"""BN before the nonlinearity beside standardisation after it (Gulcehre & Bengio, arXiv 1301.4083)."""

from __future__ import annotations

from collections.abc import Mapping

from batchyard.cli.paper.experiment import Figure, Finding, Panel, line, steps
from batchyard.cli.paper.experiment import percent as p
from batchyard.cli.paper.history import History
from batchyard.cli.paper.naive_runs import KINDS, RATES

COMPARED = ("bn", "post")
WITH_TANH = ("tanh-bn", "tanh-post")


def widening(history: History) -> float:
    """How many times as wide as at the first step the 15th to 85th percentile of a layer's inputs are at the last; that
    of the layer where it is most.
    """
    bands = ((points[0], points[-1]) for points in history.layers.values())
    return max((last.p85 - last.p15) / (first.p85 - first.p15) for first, last in bands)


def best(name: str, histories: Mapping[str, History]) -> History:
    """The run of a network at the learning rate that does it best."""
    each = (histories[f"{name}-{rate}"] for rate in KINDS[name].rates)
    return max(each, key=lambda history: history.best_accuracy)


def target(histories: Mapping[str, History]) -> float:
    """The accuracy that both get to: the lower of their best."""
    return min(best(name, histories).best_accuracy for name in COMPARED)


def stays_in_place(histories: Mapping[str, History]) -> Finding:
    """How BN and standardising after the sigmoid leave what the sigmoids are given."""
    before, after = (widening(histories[f"{name}-x1"]) for name in COMPARED)
    return Finding(
        claim="what a nonlinearity is given keeps its distribution when it is normalised, and not when what the "
        "nonlinearity gives is standardised (Gulcehre & Bengio)",
        paper='before it, "matching the first and second moments is more likely to result in a stable distribution" '
        "(section 5; argued, not measured)",
        ours=f"from the first step to the last the distance between p15 and p85 grows by a factor of {before:.1f} "
        f"against {after:.1f}, in the layer where it grows most, at learning rate {RATES['x1']:g}",
        came_out=before < after,
    )


def bears_high_rates(histories: Mapping[str, History]) -> Finding:
    """Whether both learn at the highest rate."""
    before, after = (histories[f"{name}-x30"].final_accuracy for name in COMPARED)
    return Finding(
        claim="normalising before the nonlinearity bears learning rates that standardising after it does not",
        paper='BN "enables higher learning rates" (section 3.3); not compared',
        ours=f"{p(before)} against {p(after)} at {RATES['x30']:g}",
        came_out=before > after,
    )


def before_or_after(histories: Mapping[str, History]) -> Finding:
    """Steps to the accuracy that both get to, each at its best rate."""
    both = [best(name, histories) for name in COMPARED]
    before, after = (history.steps_to(target(histories)) for history in both)
    accuracies = " against ".join(p(history.best_accuracy) for history in both)
    with_tanh = " against ".join(p(best(name, histories).best_accuracy) for name in WITH_TANH)
    return Finding(
        claim="normalising before the nonlinearity gets there in fewer steps than standardising after it",
        paper="neither said nor measured",
        ours=f"each at its best learning rate: {steps(before)} against {steps(after)} steps to {p(target(histories))}; "
        f"at best {accuracies}; with tanh in place of the sigmoids {with_tanh}",
        came_out=before is not None and (after is None or before < after),
    )


def figure(histories: Mapping[str, History]) -> Figure:
    """Accuracy over steps, of each at three rates."""
    panels = [
        Panel(
            title=f"{KINDS[name].words[0].upper()}{KINDS[name].words[1:]}",
            lines=[
                line(f"learning rate {RATES[rate]:g}", histories[f"{name}-{rate}"].accuracy, i)
                for i, rate in enumerate(KINDS[name].rates)
            ],
            y="held-out accuracy",
        )
        for name in (*COMPARED, *WITH_TANH)
    ]
    caption = "Held-out accuracy of BN before the nonlinearity and of standardisation after it, at three learning rates"
    return Figure(name="places", caption=caption, panels=panels, shared_y=True)


WHY = (
    "The paper never says that BN is faster than standardising after the nonlinearity, and behind sigmoids it is not. "
    "A reason may be (it was not isolated) that behind BN a sigmoid hands on 0.5 -/+ 0.2, which the layer of logits, "
    "where nothing is normalised, has to make the best of; standardised, it hands on 0 -/+ 1. With tanh, whose values "
    "lie around 0, both get about equally far."
)
