# Predicted before the first measurement (2 cores; ratios of samples/s to the peer's, of seconds to the bar):
#   1 worker, MLP                1.03: flat SGD, loss and accuracy every 16th step, bytes instead of floats to shuffle
#                                save more than raw pixels normalised in the network, votes and statistics cost
#   1 worker, ResNet-18          0.99: the same kernels; statistics at two of its four steps (0.936: they cost 3% each)
#     20 steps at half width     0.985: one point, whose statistics cost 0.7%; votes and sums (0.99 to 1.00)
#     and at a quarter, of 128   0.995: the 8 samples of each layer that a point looks at are a quarter of their share
#   2 workers, MLP               3: seven sums through shared memory at 0.05 ms each instead of through gloo at 1 ms
#   2 workers, ResNet-18         1.2: one pass less over the activations in each direction (1.01 at full width)
#     at a quarter, of 128       1.15: normalisation is a larger part of the step where channels are fewer
#   submission to first step     0.8 cold, 0.9 warm
#   CUDA, against nn.BatchNorm   0.98 for ResNet-18, whose step is overhead, and 1.00 for ResNet-50
"""The training engine against what one writes by hand, side by side: `make bench-training`.

Parts: mlp and resnet18 (one worker against a bare PyTorch loop), two (two workers against DistributedDataParallel with
a naive synchronised BN), start (from submission to the first step, in a service of its own), cuda (one GPU: ResNet-18
and ResNet-50 in bf16, channels_last, compiled) and to94 (one GPU: CIFAR-10 to 94%); the last two are left out where
there is none. Data are random bytes, but for to94: speed does not depend on what images show.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from bench import report, training_cuda, training_engine, training_first_step, training_ranks, training_to94

SMALL_ROUNDS, LARGE_ROUNDS = 3, 4
"""Rounds on one worker for each one asked for: runs there are short and many, because a machine's moods last longer."""


PARTS: dict[str, Callable[[argparse.Namespace], list[report.Row]]] = {
    "mlp": lambda given: training_engine.rows(training_engine.MLP, SMALL_ROUNDS * given.rounds),
    "resnet18": lambda given: training_engine.rows(
        training_engine.RESNET18, LARGE_ROUNDS * given.rounds, fused=(True,)
    ),
    "two": lambda given: training_ranks.rows(given.rounds),
    "start": lambda given: training_first_step.rows(),
    "cuda": lambda given: training_cuda.rows(given.rounds),
    "to94": lambda given: training_to94.rows(given.data),
}
ON_CUDA = ("cuda", "to94")


def main() -> None:
    """Measures the parts asked for, prints the table and writes the JSON."""
    parser = report.arguments(__doc__, "training", rounds=5)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure (all)")
    parser.add_argument("--data", action="append", default=[], metavar="FOLDER", help="where to94 looks for CIFAR-10")
    given = parser.parse_args()
    report.keep_freed_memory()
    rows = [row for part in given.only for row in PARTS[part](given)]
    on_cuda = [part for part in given.only if part in ON_CUDA]
    device = torch.cuda.get_device_name() if on_cuda and torch.cuda.is_available() else None
    left_out = {} if device else dict.fromkeys(on_cuda, "no CUDA device on this machine")
    report.publish("training", rows, ("torch", "numpy"), given.json, device, left_out)


if __name__ == "__main__":
    main()
