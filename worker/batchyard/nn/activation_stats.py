"""ActivationStats: the paper's Figure 1 for every layer of a network, live, from all workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from batchyard.nn.activation_alike import Workspace
from batchyard.nn.activation_layer import Point, WatchedLayer, end_point
from batchyard.nn.activation_sharing import Shared, share
from batchyard.nn.collectives import world_size
from batchyard.nn.sync_batchnorm import SyncBatchNorm

ACTIVATIONS = (
    nn.Sigmoid, nn.Tanh, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU,
    nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish,
)  # fmt: skip
MOST_POINTS = 16
"""Points that share one pass of arithmetic: of the 60 operations of a pass, a sixteenth each."""
MOST_KEPT_IN_ALL = 1 << 22
"""Values of z, and as many of x: 32 MiB in fp32."""


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
    smallest_batch: int | None
    """Values per channel that share their statistics, in the smallest batch: over all workers where they normalise
    together, in one ghost batch where there are any. None without BN."""
    skipped: int
    """Batches so far whose statistics were not finite (SyncBatchNorm only)."""


class ActivationStats:
    """Measures the pre-activations of every BN layer of `model`; of every activation where there is no BN.

    With BN, z is the layer's output, gamma * xhat + beta; without, the input of the activation modules. Measuring
    happens in forward passes in training mode while `enabled` is True: it copies values, and makes no host sync and no
    communication. `collect` does the arithmetic, with one all-reduce for the whole model. Of large activations the
    first samples of the batch are measured, 16,384 values or 8 samples of them.

    A histogram of 240 bins over +-6 standard deviations of z adds up over samples and workers. Where it lies is known
    from beta and gamma, which must be the same on all workers. Where z has to be looked at first (no BN, or a
    comparison mode that does not standardise) there are two all-reduces.

    Where steps are short, let several points share the work: `end_point` after the step of each, and from time to time
    `collect_points`. What a point shows does not depend on when it is collected.
    """

    def __init__(self, model: nn.Module) -> None:
        normalised = {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm) and not _is_after(m)}
        plain = {name: m for name, m in model.named_modules() if isinstance(m, ACTIVATIONS)}
        self._layers = [WatchedLayer(name, module) for name, module in (normalised or plain).items()]
        self._unrecognised = list(plain.values()) if normalised else []
        self._handles: list[RemovableHandle] = []
        self._points: list[Point] = []
        self._workspace = Workspace()
        self._kept = 0
        self.enabled = True

    @property
    def enabled(self) -> bool:
        """Whether forward passes are measured. Hooks are on the model only meanwhile: even idle ones cost 4 us each."""
        return bool(self._handles)

    @enabled.setter
    def enabled(self, wanted: bool) -> None:
        if wanted == self.enabled:
            return
        self.detach()
        if wanted:
            for layer in self._layers:
                self._handles.append(layer.module.register_forward_hook(self._measuring(layer)))
            for module in self._unrecognised:
                self._handles.append(module.register_forward_pre_hook(self._recognising()))

    def _measuring(self, layer: WatchedLayer) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if module.training:
                self._kept += layer.measure(inputs[0], output)

        hook.observes_only = True  # type: ignore[attr-defined]  # fold may take it off a copy
        return hook

    def _recognising(self) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        """Finds out which activation reads which BN layer's output."""

        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if module.training:
                for layer in self._layers:
                    layer.recognise(module, inputs[0])

        hook.observes_only = True  # type: ignore[attr-defined]
        return hook

    @property
    def full(self) -> bool:
        """Whether so much is kept that `collect_points` should not wait."""
        return len(self._points) >= MOST_POINTS or self._kept >= MOST_KEPT_IN_ALL

    @torch.no_grad()
    def end_point(self) -> None:
        """Makes what was measured since the last call one point. Every worker must call it equally often."""
        if not self._layers:
            return
        self._points.append(end_point(self._layers))
        if self._unrecognised and any(self._points[-1].smallest_batches):
            self._unrecognised = []  # one forward pass has shown which activation reads which layer
            if self.enabled:
                self.detach()
                self.enabled = True

    def collect(self, process_group: dist.ProcessGroup | None = None) -> list[LayerActivations]:
        """What was measured since the last call, over all workers of `process_group` (None: all); starts afresh.

        Every worker must call it. Layers that no worker measured are left out. Points that were ended and not yet
        collected are lost: for them there is `collect_points`.
        """
        self._points.clear()
        self.end_point()
        points = self.collect_points(process_group)
        return points[0] if points else []

    def collect_points(self, process_group: dist.ProcessGroup | None = None) -> list[list[LayerActivations]]:
        """What each point since the last call showed, over all workers; else as `collect`."""
        points, self._points, self._kept = self._points, [], 0
        if not points:
            return []
        several = world_size(process_group) > 1
        slots = [_slot(layer, process_group) if several else 0 for layer in self._layers]
        shared = share(self._layers, points, slots, self._workspace, process_group)
        told = [_Told(layer, several) for layer in self._layers]
        return [self._results(point, found, told) for point, found in zip(points, shared, strict=True)]

    def _results(self, point: Point, found: Sequence[Shared | None], told: Sequence[_Told]) -> list[LayerActivations]:
        counts = iter([] if point.skipped is None else point.skipped.tolist())
        skipped = [next(counts) if layer.counts else 0 for layer in told]
        each = zip(told, found, skipped, strict=True)
        return [layer.result(shared, count) for layer, shared, count in each if shared is not None]

    def detach(self) -> None:
        """Removes every hook from the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


class _Told:
    """What of a layer's statistics there is to tell."""

    def __init__(self, layer: WatchedLayer, several: bool) -> None:
        self.name, self.tracks, self.normalises, self.several = layer.name, layer.tracks, layer.normalises, several
        self.counts = layer.skipped is not None

    def result(self, shared: Shared, skipped: int) -> LayerActivations:
        """The statistics at one point."""
        p15, p50, p85 = shared.percentiles
        return LayerActivations(
            name=self.name,
            p15=p15,
            p50=p50,
            p85=p85,
            saturated=shared.saturated,
            dead=shared.dead,
            drift=shared.drift if self.tracks else None,
            worker_spread=shared.spread if self.several else None,
            samples=shared.samples,
            smallest_batch=shared.smallest_batch if self.normalises else None,
            skipped=skipped,
        )


def _is_after(module: nn.Module) -> bool:
    """Whether a normalisation's place is after the nonlinearity, so that what it returns is no pre-activation."""
    return getattr(module, "placement", "before") == "after"


def _slot(layer: WatchedLayer, process_group: dist.ProcessGroup | None) -> int:
    """The place in `process_group` of the first of the workers that normalise this layer together."""
    bn = layer.module
    if not isinstance(bn, SyncBatchNorm) or bn.ghost_size is not None:
        return dist.get_rank(process_group)
    everyone = dist.get_process_group_ranks(process_group)
    return everyone.index(min(set(dist.get_process_group_ranks(bn.process_group)) & set(everyone)))
