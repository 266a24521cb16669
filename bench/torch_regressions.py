"""What torch's own BN and folding do today with what users reported: `python -m bench.torch_regressions`.

Each case is a few lines that hold what went wrong then against plain arithmetic, run once with torch's implementation
and once with ours, on the CPU, in a gloo group of one worker: nn.SyncBatchNorm takes its synchronised way there, too.
Ours is tested more closely, and over several workers, in tests/nn/test_regressions.py. Issue numbers are
pytorch/pytorch's where no repository is named.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from batchyard.nn import SyncBatchNorm, fold

Fold = Callable[[nn.Module, Tensor], nn.Module]


@dataclass(frozen=True)
class Case:
    """One issue: what is asked of a layer, or of a folder."""

    issue: str
    title: str
    layer: Callable[[type[nn.Module]], bool] | None = None
    """True if a normalisation class does it right."""
    folding: Callable[[Fold], bool] | None = None
    """True if a folder does it right, or leaves alone what it cannot do."""


def main() -> None:
    """Prints the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    dist.init_process_group(
        "gloo",
        store=dist.HashStore(),  # type: ignore[attr-defined]
        rank=0,
        world_size=1,
    )
    print(f"torch {torch.__version__}\n")
    print(f"{'issue':<28}{'what':<40}{'torch':<76}ours")
    for case in CASES:
        for name, theirs in (TORCHS_LAYERS if case.layer else TORCHS_FOLDERS).items():
            ours = attempt(case, SyncBatchNorm if case.layer else by_fold)
            print(f"{case.issue:<28}{case.title:<40}{f'{name}: {attempt(case, theirs)}':<76}{ours}")
    dist.destroy_process_group()


def attempt(case: Case, implementation: Any) -> str:
    """'right', 'wrong', or the error."""
    torch.manual_seed(0)
    check: Any = case.layer or case.folding
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return "right" if check(implementation) else "WRONG"
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:36]} ..."


def on_the_cpu(kind: type[nn.Module]) -> bool:
    """Trains on the CPU as the formula says."""
    x: Any = torch.randn(8, 3, 4, 4)
    expected = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True, correction=0)
    return bool(torch.allclose(kind(3)(x), expected, atol=1e-3))


def empty_batch(kind: type[nn.Module]) -> bool:
    """A batch without samples passes, forward and backward, and leaves the statistics."""
    layer: Any = kind(3)
    x = torch.zeros(0, 3, 4, 4, requires_grad=True)
    layer(x).sum().backward()
    return bool(torch.equal(layer.running_var, torch.ones(3)) and torch.equal(layer.running_mean, torch.zeros(3)))


def poisoned_batch(kind: type[nn.Module]) -> bool:
    """A batch with one NaN leaves the running statistics finite."""
    layer: Any = kind(3)
    x = torch.randn(8, 3, 4, 4)
    x[0, 0, 0, 0] = torch.nan
    layer(x)
    return bool(torch.isfinite(layer.running_mean).all() and torch.isfinite(layer.running_var).all())


def permuted_memory(kind: type[nn.Module]) -> bool:
    """A tensor whose memory lies in another order gives the same gradient."""
    x = torch.randn(6, 3, 4, 5)
    odd = x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    plain, other = x.clone().requires_grad_(), odd.detach().requires_grad_()
    for leaf in (plain, other):
        kind(3)(leaf).square().mul(torch.arange(5.0)).sum().backward()
    return bool(torch.allclose(plain.grad, other.grad, atol=1e-5))  # type: ignore[arg-type]


def no_momentum(kind: type[nn.Module]) -> bool:
    """momentum=None averages over all batches."""
    layer: Any = kind(3, momentum=None)
    batches = [torch.randn(6, 3, 2, 2) + i for i in range(4)]
    for x in batches:
        layer(x)
    return bool(
        torch.allclose(layer.running_mean, torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0), atol=1e-5)
    )


def double_backward(kind: type[nn.Module]) -> bool:
    """The gradient's gradient agrees with finite differences."""
    layer = kind(2).double()
    x = torch.randn(5, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    return bool(torch.autograd.gradgradcheck(layer, (x,)))


def compiled(kind: type[nn.Module]) -> bool:
    """Compiles whole, and counts its batches."""
    torch.compiler.reset()
    layer: Any = kind(3)
    x = torch.randn(6, 3, 2, 2)
    whole: Any = torch.compile(layer, backend="aot_eager", fullgraph=True)
    same: bool = torch.allclose(whole(x), kind(3)(x), atol=1e-5)
    return same and int(layer.num_batches_tracked) == 1


def two_forwards(kind: type[nn.Module]) -> bool:
    """Two forward passes before one backward."""
    layer: Any = kind(3)
    xs = [torch.randn(6, 3, 2, 2, requires_grad=True) for _ in range(2)]
    (layer(xs[0]) * layer(xs[1])).sum().backward()
    return all(x.grad is not None and bool(torch.isfinite(x.grad).all()) for x in xs)


def counts_in_bf16(kind: type[nn.Module]) -> bool:
    """A layer in bf16 takes the statistics of 1,000 values a channel as well as bf16 can hold them."""
    layer: Any = kind(1).bfloat16()
    layer.momentum = 1.0
    x = torch.randn(1000, 1, 1, 1).bfloat16() + 3
    layer(x)
    return bool(abs(layer.running_var.double() - x.double().var()) < 0.01)


def _folds(model: nn.Module, x: Tensor, folder: Fold) -> bool:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    expected = copy.deepcopy(model).eval()(x)
    return bool(torch.allclose(folder(model.eval(), x)(x), expected, atol=1e-4))


def grouped_transposed(folder: Fold) -> bool:
    """A transposed convolution in groups."""
    layer = nn.ConvTranspose2d(8, 12, 4, stride=2, padding=1, groups=2)
    return _folds(nn.Sequential(layer, nn.BatchNorm2d(12)), torch.randn(2, 8, 5, 5), folder)


class ConvolutionTwice(nn.Module):
    """One convolution, two normalisations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] to the same."""
        y: Tensor = self.two(self.conv(self.one(self.conv(x)).relu()))
        return y


class NormTwice(nn.Module):
    """Two convolutions, one normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.norm = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] to [N, 4, H, W]."""
        y: Tensor = self.norm(self.two(F.relu(self.norm(self.one(x)))))
        return y


def convolution_twice(folder: Fold) -> bool:
    """A convolution that is used twice."""
    return _folds(ConvolutionTwice(), torch.randn(2, 3, 6, 6), folder)


def norm_twice(folder: Fold) -> bool:
    """A normalisation that is used twice."""
    return _folds(NormTwice(), torch.randn(2, 3, 6, 6), folder)


def beyond_fp16(folder: Fold) -> bool:
    """A variance above 65504 beside weights in fp16."""
    model: Any = nn.Sequential(nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5)).eval()
    model[1].running_var.fill_(1e6)
    x = torch.randn(3, 4, 2, 2)
    expected = model(x)
    model[0].half()
    y: Tensor = folder(model, x.half())(x.half())
    return bool(torch.isfinite(y).all() and torch.allclose(y.float(), expected, atol=1e-3))


def by_fold(model: nn.Module, x: Tensor) -> nn.Module:
    """Ours."""
    return fold(model, (x,)).module


def by_fx(model: nn.Module, x: Tensor) -> nn.Module:
    """Torch's, over a whole network."""
    from torch.fx.experimental.optimization import fuse

    fused: nn.Module = fuse(model)
    return fused


def by_fuse_conv_bn(model: nn.Module, x: Tensor) -> nn.Module:
    """Torch's, for one convolution and the normalisation behind it; a network without such a pair stays."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    if not isinstance(model, nn.Sequential):
        raise TypeError("folds one pair, not a network")
    conv: Any = model[0]
    norm: Any = model[1]
    pair: nn.Module = fuse_conv_bn_eval(conv, norm, isinstance(conv, nn.ConvTranspose2d))
    return pair


TORCHS_LAYERS: dict[str, type[nn.Module]] = {"BatchNorm2d": nn.BatchNorm2d, "SyncBatchNorm": nn.SyncBatchNorm}
TORCHS_FOLDERS: dict[str, Fold] = {"fx fuse": by_fx, "fuse_conv_bn_eval": by_fuse_conv_bn}
CASES = (
    Case("mmsegmentation 2147", "runs on the CPU", layer=on_the_cpu),
    Case("36530, 78549", "a batch without samples", layer=empty_batch),
    Case("88474, 115500", "NaN spares the running statistics", layer=poisoned_batch),
    Case("62967, 64039", "permuted memory formats", layer=permuted_memory),
    Case("194504", "momentum=None", layer=no_momentum),
    Case("61222", "double backward", layer=double_backward),
    Case("161302, 156680, 107372", "torch.compile without a break", layer=compiled),
    Case("24397, 65907", "two forward passes, one backward", layer=two_forwards),
    Case("-", "statistics of 1,000 values in bf16", layer=counts_in_bf16),
    Case("180995, ultralytics 25364", "grouped transposed convolution", folding=grouped_transposed),
    Case("197539, 104593", "a convolution used twice", folding=convolution_twice),
    Case("aimet 3506", "a normalisation used twice", folding=norm_twice),
    Case("-", "a variance beyond fp16", folding=beyond_fp16),
)

if __name__ == "__main__":
    main()
