# Predicted before the first measurement (2 cores; ratios of samples/s to the peer's, of seconds to the bar):
#   1 worker, MLP                1.03: flat SGD, loss and accuracy every 16th step, bytes instead of floats to shuffle
#                                save more than raw pixels normalised in the network, votes and statistics cost
#   1 worker, ResNet-18          0.99: the same kernels; statistics at two of its four steps (0.936: they cost 3% each)
#     20 steps at half width     0.985: one point, whose statistics cost 0.7%; votes and sums
#   2 workers, MLP               3: seven sums through shared memory at 0.05 ms each instead of through gloo at 1 ms
#   2 workers, ResNet-18         1.2: one pass less over the activations in each direction
#   submission to first step     0.8 cold, 0.9 warm
#   CUDA, against nn.BatchNorm   0.98 for ResNet-18, whose step is overhead, and 1.00 for ResNet-50
"""The training engine against what one writes by hand, side by side: `make bench-training`.

Parts: one (one worker against a bare PyTorch loop), two (two workers against DistributedDataParallel with a naive
synchronised BN), start (from submission to the first step, in a service of its own), cuda (one GPU: ResNet-18 and
ResNet-50 in bf16, channels_last, compiled; left out where there is none). Data are random bytes: speed does not depend
on what images show.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench import report, training_cuda, training_engine, training_first_step, training_ranks

SMALL_ROUNDS, LARGE_ROUNDS = 3, 2
"""Rounds on one worker for each one asked for: runs there are short and many, because a machine's moods last longer."""


def one(rounds: int) -> list[report.Row]:
    """One worker."""
    small = training_engine.rows(training_engine.MLP, SMALL_ROUNDS * rounds)
    return small + training_engine.rows(training_engine.RESNET18, LARGE_ROUNDS * rounds, fused=(True,))


PARTS: dict[str, Callable[[int], list[report.Row]]] = {
    "one": one,
    "two": training_ranks.rows,
    "start": lambda rounds: training_first_step.rows(),
    "cuda": training_cuda.rows,
}


def main() -> None:
    """Measures the parts asked for, prints the table and writes the JSON."""
    parser = report.arguments(__doc__, "training", rounds=5)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure (all)")
    given = parser.parse_args()
    report.keep_freed_memory()
    rows = [row for part in given.only for row in PARTS[part](given.rounds)]
    device = torch.cuda.get_device_name() if "cuda" in given.only and torch.cuda.is_available() else None
    report.publish("training", rows, ("torch", "numpy"), given.json, device)


if __name__ == "__main__":
    main()
