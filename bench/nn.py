# Predicted before the first measurement (2 cores, 1 thread unless said otherwise; times as ratios to the peer):
#   one process, MLP shapes      1.15: a call costs 3 us more than nn.BatchNorm's 25; misses its bar
#   one process, ResNet shapes   1.00: the same kernels over megabytes
#   2 to 4 workers, [60, 100]    0.9: both make two collectives of about 1 ms; ours has fewer small operations around
#   2 to 4 workers, ResNet       0.5: the naive one makes about twice as many passes over memory
#   2 to 4 workers, MLP step     0.95: three BN layers between one set of DDP buckets
#   statistics at every step     1.5 on the MLP, 1.2 on convolutions; at every 20th step 1.025 and 1.01: the MLP misses
#   fold + certify, ResNet-50    4 s: about ten fp64 forward passes and sixteen thousand small probes
#   largest errors               every one below its bar; fp32 y 1e-6, dx 1e-6, variance 3e-7; fp64 1e-14, at 1000 1e-10
#   CUDA, against nn.BatchNorm   1.3 eager (isfinite, where: a dozen small kernels), 1.05 compiled
"""batchyard.nn against its peers, side by side: `make bench-nn`, or `python -m bench.nn [--only PART ...]`.

Parts: layers (SyncBatchNorm in one process against nn.BatchNorm), ranks (2 to 4 gloo workers against a naive all-gather
SyncBN), exactness (the largest errors of several workers against one that has the whole batch), statistics (what
ActivationStats adds to a training step), fold (fold and certify a ResNet-50), cuda (where there is a device: against
nn.BatchNorm and torch.nn.SyncBatchNorm; left out otherwise).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench import nn_cuda, nn_exactness, nn_fold, nn_layers, nn_ranks, nn_statistics, report

PARTS: dict[str, Callable[[int], list[report.Row]]] = {
    "layers": nn_layers.rows,
    "ranks": nn_ranks.rows,
    "exactness": nn_exactness.rows,
    "statistics": nn_statistics.rows,
    "fold": nn_fold.rows,
    "cuda": nn_cuda.rows,
}


def main() -> None:
    """Measures the parts asked for, prints the table and writes the JSON."""
    parser = report.arguments(__doc__, "nn", rounds=41)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure (all)")
    given = parser.parse_args()
    report.keep_freed_memory()
    rows = [row for part in given.only for row in PARTS[part](given.rounds)]
    device = torch.cuda.get_device_name() if "cuda" in given.only and torch.cuda.is_available() else None
    report.publish("nn", rows, ("torch", "numpy"), given.json, device)


if __name__ == "__main__":
    main()
