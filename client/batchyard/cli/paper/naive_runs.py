"""The jobs of the experiment `naive`: the network of section 4.1 with each place and kind of normalisation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from batchyard.cli.paper.experiment import Run

RATES = {"x1": 0.1, "x10": 1.0, "x30": 3.0}
"""Learning rates."""
QUICK, FULL = 4_000, 50_000


class Kind(NamedTuple):
    """A network."""

    norm: str
    words: str
    """What people call it."""
    rates: tuple[str, ...] = tuple(RATES)
    """Those of RATES that it is trained at."""
    activation: str = "sigmoid"


KINDS = {
    "bn": Kind("batch", "BN"),
    "naive": Kind("standardize_detached", "normalised outside the gradient", ("x10",)),
    "detached": Kind("detached", "the same with gamma and beta", ("x10",)),
    "plain": Kind("none", "not normalised", ("x1",)),
    "post": Kind("standardize_post", "standardised after the sigmoid"),
    "tanh-bn": Kind("batch", "BN, tanh", activation="tanh"),
    "tanh-post": Kind("standardize_post", "standardised after the tanh", activation="tanh"),
}
"""The naive ones at a rate that BN trains well at."""


def keys() -> Iterator[tuple[str, Kind, float]]:
    """Each run's key, network and learning rate."""
    for name, kind in KINDS.items():
        for rate in kind.rates:
            yield f"{name}-{rate}", kind, RATES[rate]


def runs(quick: bool) -> Sequence[Run]:
    """Each network at each of its learning rates."""
    length = QUICK if quick else FULL
    return [_run(key, kind, rate, length) for key, kind, rate in keys()]


def _run(key: str, kind: Kind, rate: float, length: int) -> Run:
    model = {"architecture": "mlp", "hidden": [100, 100, 100], "activation": kind.activation, "norm": kind.norm}
    spec = {
        "model": model,
        "data": {"dataset": "mnist", "batch_size": 60},
        "optimizer": {"name": "sgd", "learning_rate": rate},
        "steps": length,
        "workers": {"count": 1},
        "evaluate": {"every_steps": length // 40},
        "metrics": {"every_steps": length // 40},
        "seed": 1,
    }
    label = f"MNIST MLP, {kind.words}, learning rate {rate:g}"
    return Run(key=key, label=label, spec=spec, may_diverge=kind.norm != "batch")
