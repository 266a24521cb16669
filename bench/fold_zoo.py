# Predicted before the first run: every network of torchvision and of timm that torch.fx can trace folds and gets its
# certificate; DenseNets keep one layer in two as an affine node, everything else at most a tenth.
# Seen: DenseNets as predicted; networks that normalise a sum, or a value that a shortcut reads too, keep a sixth to a
# half: wide ResNet, DPN, RepVGG, MobileOne, FastViT. EfficientViT asks for its device and is not traced.
"""What becomes of the batch normalisations of well-known networks: `python -m bench.fold_zoo [--only NAME ...]`.

Runs over the architectures of this library, and over those of torchvision and timm where they are installed; nothing
else needs these. Weights, gammas and betas are random, statistics those of random images. Every network is folded and
certified: the folded network's largest error against the fp64 oracle must stay within the certificate's bound, 8 times
what the unfolded network errs.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchyard import models
from batchyard.nn import FoldEntry, FoldError, certify, fold, population_statistics
from bench import report

SAMPLES = 4
IMAGE = (3, 64, 64)
OWN = tuple(name for name in models.ARCHITECTURES if name != "mlp")
TORCHVISION = (
    "resnet18", "resnet50", "wide_resnet50_2", "resnext50_32x4d", "regnet_x_400mf", "regnet_y_400mf", "densenet121",
    "densenet169", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "mnasnet1_0", "shufflenet_v2_x1_0",
    "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3", "fcn_resnet50",
    "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large", "r3d_18", "mc3_18", "r2plus1d_18",
)  # fmt: skip
TIMM = (
    "resnet50d", "seresnet50", "ecaresnet26t", "skresnet18", "res2net50_26w_4s", "resnest14d", "dla34", "dpn68",
    "hrnet_w18_small", "ese_vovnet19b_dw", "cspresnet50", "darknet53", "repvgg_a0", "mobileone_s0", "fastvit_t8",
    "efficientvit_b0", "levit_128s", "efficientformer_l1", "tf_efficientnet_b0", "mobilenetv3_small_100",
    "mobilenetv4_conv_small", "mixnet_s", "ghostnet_100", "lcnet_050", "rexnet_100", "hardcorenas_a", "gernet_s",
    "selecsls42b", "xception41", "inception_v4", "inception_resnet_v2", "botnet26t_256", "repghostnet_050",
    "convmixer_768_32",
)  # fmt: skip
SEGMENTATION = ("fcn", "deeplab", "lraspp")
NETWORKS = {"batchyard": OWN, "torchvision": TORCHVISION, "timm": TIMM}
SHAPES = {
    **dict.fromkeys(("lenet", "airbench"), (3, 32, 32)),
    **dict.fromkeys(("inception_v3", "inception_v4", "inception_resnet_v2"), (3, 128, 128)),
    **dict.fromkeys(("levit_128s", "efficientformer_l1"), (3, 224, 224)),
    "botnet26t_256": (3, 256, 256),
    **dict.fromkeys(("r3d_18", "mc3_18", "r2plus1d_18"), (3, 8, 32, 32)),
}
"""Inputs of those that do not take IMAGE: channels, frames of a film, height, width."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """What became of one network."""

    name: str
    statuses: Counter[str]
    """How many layers were folded, affine, refused."""
    why: Counter[str]
    """Why layers are left."""
    error: float
    """The folded network's largest against the fp64 oracle, relative to the largest output."""
    bound: float
    """The largest that the certificate allows, relative to the largest output."""
    reasons: tuple[str, ...]
    """Why there is no certificate; empty where there is one."""
    seconds: float
    """For folding and certifying."""

    def row(self) -> report.Row:
        """For the results file."""
        return report.Row(
            name=self.name, ours=self.error, peer="bound", peer_value=self.bound, unit="of the largest output", bar=1.0
        )

    def to_json(self) -> dict[str, Any]:
        """The row, and what became of the layers."""
        counts = {status: self.statuses[status] for status in ("folded", "affine", "refused")}
        layers = {"batch_norms": self.statuses.total(), **counts, "why": dict(self.why.most_common())}
        return {**self.row().to_json(), **layers, "not_certified": self.reasons[:3], "seconds": round(self.seconds, 1)}

    def __str__(self) -> str:
        counts = "  ".join(f"{status} {self.statuses[status]:3}" for status in ("folded", "affine", "refused"))
        certified = f"NOT CERTIFIED: {self.reasons[0]}" if self.reasons else "certified"
        error = f"error {self.error:.1e}, bound {self.bound:.1e}"
        return f"{self.name:<42}{self.statuses.total():4} BN  {counts}  {error}  {certified}  {self.seconds:.1f} s"


def main(arguments: Sequence[str] | None = None) -> None:
    """Folds every network, prints a line for each and writes the JSON. Arguments: those of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="networks or sources, such as timm (all)")
    parser.add_argument("--json", type=Path, default=report.RESULTS / "fold_zoo.json", help="results (%(default)s)")
    given = parser.parse_args(arguments)
    lines: list[Line] = []
    left_out: dict[str, str] = {}
    wanted = [(source, name) for source, names in NETWORKS.items() for name in names]
    try:
        for source, name in wanted:
            if not given.only or name in given.only or source in given.only:
                _measure_into(lines, left_out, source, name)
    finally:  # what was found is kept when one network is a bug's first
        write(lines, left_out, given.json)


def _measure_into(lines: list[Line], left_out: dict[str, str], source: str, name: str) -> None:
    title = f"{source} {name}"
    try:
        lines.append(measure(title, built(source, name), images(name)))
        print(lines[-1], flush=True)
    except (FoldError, ImportError) as error:
        left_out[title] = str(error)
        print(f"{title}: {error}", flush=True)


def built(source: str, name: str) -> nn.Module:
    """A network with random weights. Raises ImportError where its library is not installed."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the libraries themselves find old
        if source == "batchyard":
            plan = models.Plan(image_shape=SHAPES.get(name, IMAGE), classes=10, activation="relu")  # type: ignore[arg-type]
            return models.build(name, plan, seed=0)
        library = importlib.import_module(source)
        if source == "torchvision":
            backbone = {"weights_backbone": None} if name.startswith(SEGMENTATION) else {}  # or it is downloaded
            network: nn.Module = library.models.get_model(name, weights=None, **backbone)
        else:
            network = library.create_model(name, pretrained=False)
        return network


def images(name: str) -> Tensor:
    """Random ones of the network's size."""
    return torch.randn(SAMPLES, *SHAPES.get(name, IMAGE), generator=torch.Generator().manual_seed(0))


def measure(name: str, network: nn.Module, inputs: Tensor) -> Line:
    """Folds and certifies. Raises FoldError where the network cannot be."""
    network = as_trained(network, inputs)
    began = time.perf_counter()
    folded = fold(network, (inputs[:2],))
    certificate = certify(folded, network, (inputs,))
    seconds = time.perf_counter() - began
    largest = float(certificate.expected.abs().max())
    return Line(
        name=name,
        statuses=Counter(entry.status for entry in folded.report),
        why=Counter(_kind(entry) for entry in folded.report if entry.status != "folded"),
        error=certificate.max_error / largest,
        bound=certificate.bound / largest,
        reasons=certificate.reasons,
        seconds=seconds,
    )


def as_trained(network: nn.Module, inputs: Tensor) -> nn.Module:
    """The network in evaluation mode, gammas and betas not easy, with the statistics of `inputs`."""
    for layer in network.modules():
        if isinstance(layer, _BatchNorm) and layer.affine:
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0.0, 0.3)
    population_statistics(network, [inputs], "population")
    return network.eval()


def _kind(entry: FoldEntry) -> str:
    """The reason without the names of layers, so that those that are left for the same one are counted together."""
    words = (["..." if any(c in "._0123456789" for c in w) else w for w in part.split()] for part in _parts(entry))
    return "; ".join(dict.fromkeys(map(" ".join, words)))


def _parts(entry: FoldEntry) -> list[str]:
    return [part for part in entry.reason.split("; ") if not part.startswith("and ")]


def write(lines: Sequence[Line], left_out: dict[str, str], path: Path) -> None:
    """The results file."""
    packages = ["torch", *(name for name in ("torchvision", "timm") if importlib.util.find_spec(name))]
    found = report.result("fold_zoo", [line.row() for line in lines], packages, left_out=left_out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found | {"rows": [line.to_json() for line in lines]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
