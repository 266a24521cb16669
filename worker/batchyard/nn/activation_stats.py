"""ActivationStats: the paper's Figure 1 for every layer of a network, live, from all workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from batchyard.nn.activation_layer import WatchedLayer
from batchyard.nn.activation_sums import Shared, pack_sums, share
from batchyard.nn.collectives import world_size
from batchyard.nn.sync_batchnorm import SyncBatchNorm

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
    smallest_batch: int | None
    """Values per channel that share their statistics, in the smallest batch: over all workers where they normalise
    together, in one ghost batch where there are any. None without BN."""
    skipped: int
    """Batches so far whose statistics were not finite (SyncBatchNorm only)."""


class ActivationStats:
    """Measures the pre-activations of every BN layer of `model`; of every activation where there is no BN.

    With BN, z is the layer's output, gamma * xhat + beta; without, the input of the activation modules. Measuring
    happens in forward passes in training mode while `enabled` is True, and makes no host sync and no communication;
    `collect` makes one all-reduce for the whole model. Of large activations the first samples of the batch are
    measured, 16,384 values or 8 samples of them.

    A histogram of 240 bins over +-6 standard deviations adds up over samples and workers. Its grid lies where the
    values collected last were, on all workers alike; at first, where gamma and beta predict them.
    """

    def __init__(self, model: nn.Module) -> None:
        normalised = {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm) and not _is_after(m)}
        plain = {name: m for name, m in model.named_modules() if isinstance(m, ACTIVATIONS)}
        self._layers = [WatchedLayer(name, module) for name, module in (normalised or plain).items()]
        self._unrecognised = list(plain.values()) if normalised else []
        self._handles: list[RemovableHandle] = []
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
                layer.measure(inputs[0], output)

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

    @torch.no_grad()
    def collect(self, process_group: dist.ProcessGroup | None = None) -> list[LayerActivations]:
        """What was measured since the last call, over all workers of `process_group` (None: all); starts afresh.

        Every worker must call it, the same number of times. Layers that no worker measured are left out.
        """
        if not self._layers:
            return []
        if self._unrecognised and any(layer.measured for layer in self._layers):
            self._unrecognised = []  # one forward pass has shown which activation reads which layer
            if self.enabled:
                self.detach()
                self.enabled = True
        workers = world_size(process_group)
        slots = [0] * len(self._layers) if workers == 1 else [_slot(layer, process_group) for layer in self._layers]
        packed = pack_sums(self._layers, slots, workers)
        if workers > 1:
            dist.all_reduce(packed, group=process_group)
        shared = share(self._layers, packed, workers)
        return [_result(layer, s, workers > 1) for layer, s in zip(self._layers, shared, strict=True) if s is not None]

    def detach(self) -> None:
        """Removes every hook from the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def _result(layer: WatchedLayer, shared: Shared, several: bool) -> LayerActivations:
    return LayerActivations(
        name=layer.name,
        p15=shared.percentiles[0],
        p50=shared.percentiles[1],
        p85=shared.percentiles[2],
        saturated=shared.saturated,
        dead=shared.dead,
        drift=shared.drift if layer.tracks else None,
        worker_spread=shared.spread if several else None,
        samples=shared.samples,
        smallest_batch=shared.smallest_batch if layer.normalises else None,
        skipped=layer.skipped,
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
