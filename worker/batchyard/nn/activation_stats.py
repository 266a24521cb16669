"""ActivationStats: the paper's Figure 1 for every layer of a network, live, from all workers."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from batchyard.nn.moments import pack, unpack, world_size

BINS = 240
REACH = 6.0
"""The grid covers +-6 standard deviations: 0.05 each bin."""
MOST_VALUES = 16384
"""Values that one measurement bins; larger activations are thinned out evenly."""
SATURATED_ABOVE: dict[type[nn.Module], float] = {nn.Sigmoid: 4.0, nn.Tanh: 2.0}
"""abs(z) beyond which the slope is below 8% of its largest; tanh(z) = 2 sigmoid(2z) - 1."""
ACTIVATIONS = (
    nn.Sigmoid, nn.Tanh, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU,
    nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish,
)  # fmt: skip


@dataclass(frozen=True)
class LayerActivations:
    """What the input z of one layer's nonlinearity looked like, over all channels, samples and workers measured."""

    name: str
    """The module's qualified name: the BN layer's, or the activation's in a network without BN."""
    p15: float
    """15th percentile of z, in the units of z, within 0.05 of its standard deviation."""
    p50: float
    p85: float
    saturated: float
    """Share of z beyond saturation: abs(z) > 4 for a sigmoid (and where the activation is not known), 2 for tanh; 0 for
    ReLU and its kin."""
    dead: float
    """Share of channels that passed on no gradient: saturated, or for ReLU not above 0, on every sample measured."""
    drift: float | None
    """Root mean square over channels of sqrt((mu_B - mu)^2 + (sigma_B - sigma)^2) / sigma: this batch's statistics
    against the running ones. None without running statistics."""
    worker_spread: float | None
    """Standard deviation of the workers' means of z, in standard deviations of z, root mean square over channels.
    None for a single worker."""
    samples: int
    """Values per channel that the moments come from: m of the paper."""
    skipped: int
    """Batches so far whose statistics were not finite (SyncBatchNorm only)."""


class ActivationStats:
    """Measures the pre-activations of every BN layer of `model`; of every activation where there is no BN.

    With BN, z is the layer's output, gamma * xhat + beta; without, the input of the activation modules. Measuring
    happens in forward passes in training mode while `enabled` is True, and makes no host sync and no communication;
    `collect` makes one all-reduce for the whole model.

    A histogram of 240 bins over +-6 standard deviations adds up over samples and workers. Its grid is each worker's
    same: the mean and standard deviation that gamma and beta predict for z, or, without BN, those last collected.
    """

    enabled: bool

    def __init__(self, model: nn.Module) -> None:
        self.enabled = True
        normalised = {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm)}
        plain = {name: m for name, m in model.named_modules() if isinstance(m, ACTIVATIONS)}
        self._layers = [_Layer(name, module) for name, module in (normalised or plain).items()]
        self._handles: list[RemovableHandle] = []
        for layer in self._layers:
            self._handles.append(layer.module.register_forward_hook(self._measuring(layer)))
        if normalised:
            for module in plain.values():
                self._handles.append(module.register_forward_pre_hook(self._recognising()))

    def _measuring(self, layer: _Layer) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if self.enabled and module.training:
                with torch.no_grad():
                    layer.measure(inputs[0].detach(), output.detach())
                    layer.remember(output)

        hook.observes_only = True  # type: ignore[attr-defined]  # fold may take it off a copy
        return hook

    def _recognising(self) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        """Finds out which activation reads which BN layer's output."""

        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if self.enabled and module.training:
                for layer in self._layers:
                    layer.recognise(module, inputs[0])

        hook.observes_only = True  # type: ignore[attr-defined]
        return hook

    @torch.no_grad()
    def collect(self, process_group: dist.ProcessGroup | None = None) -> list[LayerActivations]:
        """What was measured since the last call, over all workers of `process_group` (None: all); starts afresh.

        Every worker must call it, the same number of times. Layers that no worker measured are left out.
        """
        packed = [layer.packed() for layer in self._layers]
        if not packed:
            return []
        flat = torch.cat(packed)
        if world_size(process_group) > 1:
            dist.all_reduce(flat, group=process_group)
        parts = torch.split(flat.cpu(), [part.numel() for part in packed])
        several = world_size(process_group) > 1
        results = [layer.result(part, several) for layer, part in zip(self._layers, parts, strict=True)]
        return [result for result in results if result is not None]

    def detach(self) -> None:
        """Removes every hook from the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


@dataclass
class _Layer:
    """One measured layer and the sums since the last collection."""

    name: str
    module: nn.Module
    activation: type[nn.Module] | None = None
    """What reads z; None while not known."""
    location: float | Tensor = 0.0
    scale: float | Tensor = 4.0
    """The grid's centre and unit; without BN, before the first collection, 0 and 4."""
    channels: int = 0
    sums: Tensor | None = None
    """fp64: histogram [240], saturated, binned, alive samples per channel [C], `pack` of the layer's input [2C + 1]."""
    output: weakref.ref[Tensor] | None = None

    def __post_init__(self) -> None:
        self.normalises = isinstance(self.module, _BatchNorm)
        if isinstance(self.module, _BatchNorm):
            self.channels = self.module.num_features
        else:
            self.activation = type(self.module)

    def remember(self, output: Tensor) -> None:
        """Holds on to the first output, weakly, until the activation that reads it is known."""
        if self.activation is None:
            self.output = weakref.ref(output)

    def recognise(self, activation: nn.Module, z: Tensor) -> None:
        if self.output is not None and self.output() is z:
            self.activation, self.output = type(activation), None

    def measure(self, x: Tensor, output: Tensor) -> None:
        """Adds one forward pass; z is `output` for a BN layer and `x` for an activation."""
        self.channels = x.shape[1] if x.dim() > 1 else 1
        self._place_grid()
        if not x.numel():
            return
        z = (output if self.normalises else x).float()
        values = _thinned(z)
        grid = ((values - self.location) / self.scale).clamp(-REACH + 1e-4, REACH - 1e-4)
        limit = SATURATED_ABOVE.get(self.activation or nn.Sigmoid, math.inf)
        counts = [torch.histc(grid, BINS, -REACH, REACH), (values.abs() > limit).sum()[None], self._alive(z, limit)]
        binned = counts[0].new_tensor([values.numel()]) if not z.is_cuda else counts[0].sum()[None]
        term = torch.cat([counts[0].double(), counts[1].double(), binned.double(), counts[2].double(), pack(x)])
        self.sums = term if self.sums is None else self.sums.add_(term)

    def _place_grid(self) -> None:
        """What gamma and beta predict for z over all channels: mean E[beta], variance E[gamma^2] + Var[beta]."""
        if not isinstance(self.module, _BatchNorm):
            return
        gamma, beta = self.module.weight, self.module.bias
        if gamma is None or beta is None:
            self.location, self.scale = 0.0, 1.0
        else:
            var, mean = torch.var_mean(beta.float(), correction=0)
            self.location, self.scale = mean, (gamma.float().square().mean() + var).sqrt().clamp(min=1e-6)

    def _alive(self, z: Tensor, limit: float) -> Tensor:
        """1 for each channel through which some gradient flows, [C]."""
        others = [d for d in range(z.dim()) if d != 1]
        if self.activation in SATURATED_ABOVE:
            return z.abs().amin(others) <= limit
        return z.amax(others) > 0

    def packed(self) -> Tensor:
        """What is added up over workers: the sums, and m * (this worker's mean)^2 per channel. Starts afresh."""
        sums, self.sums = self.sums, None
        if sums is None:
            self._place_grid()
            device = next((t.device for t in self.module.parameters()), torch.device("cpu"))
            sums = torch.zeros(BINS + 2 + 3 * self.channels + 1, dtype=torch.float64, device=device)
        total = sums[BINS + 2 + self.channels : BINS + 2 + 2 * self.channels]
        return torch.cat([sums, total.square() / sums[-1].clamp(min=1)])

    def result(self, sums: Tensor, several: bool) -> LayerActivations | None:
        """The statistics from the sums of all workers; None where there was nothing to measure."""
        channels = self.channels
        histogram, (saturated, binned) = sums[:BINS], sums[BINS : BINS + 2].tolist()
        alive, packed, between = torch.split(sums[BINS + 2 :], [channels, 2 * channels + 1, channels])
        if not binned:
            return None
        mean, var, count = (m := unpack(packed)).mean, m.var, int(m.total)
        p15, p50, p85 = self._percentiles(histogram)
        spread = ((between / count - mean.square()).clamp(min=0) / var.clamp(min=1e-24)).mean().sqrt()
        if not self.normalises:
            self._move_grid(mean, var)
        return LayerActivations(
            name=self.name,
            p15=p15,
            p50=p50,
            p85=p85,
            saturated=saturated / binned,
            dead=float((alive == 0).double().mean()),
            drift=self._drift(mean, var),
            worker_spread=float(spread) if several else None,
            samples=count,
            skipped=int(getattr(self.module, "skipped_batches", None) or 0),
        )

    def _percentiles(self, histogram: Tensor) -> list[float]:
        """15th, 50th and 85th percentile of z, interpolated within a bin."""
        location, scale = float(self.location), float(self.scale)
        cumulated = (histogram.cumsum(0) / histogram.sum()).tolist()
        return [location + scale * _quantile(cumulated, p) for p in (0.15, 0.50, 0.85)]

    def _move_grid(self, mean: Tensor, var: Tensor) -> None:
        self.location = float(mean.mean())
        self.scale = max(1e-6, math.sqrt(float(var.mean() + mean.var(correction=0))))

    def _drift(self, mean: Tensor, var: Tensor) -> float | None:
        if not isinstance(self.module, _BatchNorm) or self.module.running_mean is None:
            return None
        running_mean, running_var = self.module.running_mean.double().cpu(), self.module.running_var
        assert running_var is not None
        running_var = running_var.double().cpu() + self.module.eps
        moved = (mean - running_mean).square() + ((var + self.module.eps).sqrt() - running_var.sqrt()).square()
        return float((moved / running_var).mean().sqrt())


def _thinned(z: Tensor) -> Tensor:
    """At most MOST_VALUES of the values of z, evenly spaced, with a step that meets every channel and place."""
    step = -(-z.numel() // MOST_VALUES)
    while math.gcd(step, z.numel()) > 1:
        step += 1
    return z.flatten()[::step]


def _quantile(cumulated: list[float], p: float) -> float:
    """Where the cumulated histogram passes `p`, in units of the grid."""
    i = next(i for i, share in enumerate(cumulated) if share >= p)
    below = cumulated[i - 1] if i else 0.0
    return -REACH + (i + (p - below) / (cumulated[i] - below)) * (2 * REACH / BINS)
