"""certify: the proof that a folded network equals the unfolded one, layer by layer and end to end."""

from __future__ import annotations

import ctypes
import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from batchyard.nn.folding.fold import FoldedModel
from batchyard.nn.folding.in_double import doubled, in_double
from batchyard.nn.folding.in_place import without_in_place
from batchyard.nn.folding.proof import LayerProof, prove_layers
from batchyard.nn.folding.tracing import double_copy, record_values, trace

TIMES_OWN_ERROR = 8.0
"""k: the folded network may err this many times as much as the unfolded one does in its own precision."""
LEAST_ROUNDINGS = 32.0
"""The unfolded network's error counts as at least this many roundings of the largest output: engines other than torch
add up in other orders (ONNX Runtime on 2 cores: up to 12 on the networks in tests/nn)."""


@dataclass(frozen=True)
class Certificate:
    """What `certify` found. `passed` only if every layer's proof, the error bound and every decision hold."""

    passed: bool
    max_error: float
    """Largest absolute error of the folded network's outputs against the fp64 oracle."""
    bound: float
    """Largest error allowed: 8 times what the unfolded network errs in its own precision, at least 256 roundings of the
    largest output."""
    digest: str
    """sha256 over the folded network's graph and weights, the fold report and the samples."""
    expected: Tensor
    """The fp64 oracle's first output for the samples."""
    layers: tuple[LayerProof, ...]
    """One proof for each place where the folded graph differs from the original."""
    reasons: tuple[str, ...]
    """Why it did not pass; empty when it did."""


@torch.no_grad()
def certify(folded: FoldedModel, model: nn.Module, samples: tuple[Any, ...]) -> Certificate:
    """Proves that `folded` computes what `model` computes, and measures it on `samples`.

    Three checks. Each layer that differs is affine before and after folding: equal answers to zero and to unit impulses
    at the middle and the border make the maps equal, up to the rounding of the folded weights. On the samples the
    folded network must come as near to the fp64 oracle as `bound` says. And it must decide like the oracle: the same
    largest output (dimension 1) for every sample, unless the oracle's two largest are nearer than twice the bound.

    Args:
        folded: what `fold` returned for `model`.
        model: the unfolded network, unchanged since.
        samples: the arguments of one call.

    Raises FoldError where the model cannot be traced or run in fp64.
    """
    oracle = double_copy(model)
    with in_double():
        expected = _outputs(oracle, doubled(samples))
    was_training = [m for m in model.modules() if m.training]
    own = _outputs(model.eval(), samples)
    for module in was_training:
        module.training = True
    actual = _outputs(folded.module, samples)
    original = trace(oracle, samples)
    record_values(original, tuple(s[:1] if isinstance(s, Tensor) and s.dim() else s for s in samples))
    without_in_place(original)
    with in_double():
        layers = prove_layers(folded, original)
    reasons = [f"layer {proof.name}: {proof.reason}" for proof in layers if not proof.passed]
    bound = TIMES_OWN_ERROR * max(_error(own, expected), LEAST_ROUNDINGS * _rounding(own, expected))
    max_error = _error(actual, expected)
    if not max_error <= bound:
        reasons.append(f"the largest error on the samples is {max_error:.3g}; at most {bound:.3g} is allowed")
    if differing := _other_decisions(actual, expected, bound):
        reasons.append(f"{differing} samples have another largest output than the fp64 oracle's")
    if any(e.status == "refused" and not e.reason for e in folded.report):
        reasons.append("the fold report refuses a layer without a reason")
    digest = certificate_digest(folded, samples)
    return Certificate(not reasons, max_error, bound, digest, expected[0], tuple(layers), tuple(reasons))


def certificate_digest(folded: FoldedModel, samples: tuple[Any, ...]) -> str:
    """sha256, in hexadecimal, over what a certificate vouches for: one changed bit of a weight changes it."""
    digest = hashlib.sha256()
    digest.update(folded.module.code.encode())
    for name, tensor in sorted({**folded.module.state_dict(), **dict(folded.module.named_buffers())}.items()):
        _update(digest, name, tensor)
    for entry in (*folded.report, *folded.inputs):
        digest.update(repr((entry.name, entry.status, entry.into, entry.reason)).encode())
    for i, sample in enumerate(samples):
        if isinstance(sample, Tensor):
            _update(digest, f"sample {i}", sample)
        else:
            digest.update(repr(sample).encode())
    return digest.hexdigest()


def _update(digest: Any, name: str, tensor: Tensor) -> None:
    digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
    flat = tensor.detach().cpu().contiguous()
    digest.update(ctypes.string_at(flat.data_ptr(), flat.numel() * flat.element_size()))


def _outputs(module: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    copies = (x.clone() if isinstance(x, Tensor) else x for x in inputs)  # forward may write into its inputs
    return [leaf.cpu() for leaf in tree_leaves(module(*copies)) if isinstance(leaf, Tensor)]


def _error(outputs: list[Tensor], expected: list[Tensor]) -> float:
    """The largest absolute error; infinite for another shape, or where only one of both is finite."""
    worst = 0.0
    for a, b in zip(outputs, expected, strict=True):
        if a.shape != b.shape:
            return float("inf")
        error = (a.double() - b).abs()
        error[a.double() == b] = 0  # equal infinities
        worst = max(worst, float(error.nan_to_num(torch.inf, torch.inf).max()) if error.numel() else 0.0)
    return worst


def _rounding(outputs: list[Tensor], expected: list[Tensor]) -> float:
    """One rounding of the largest output, in the precision of the outputs."""
    sizes = [float(e.abs().nan_to_num(0, 0).max()) for e in expected if e.numel()]
    epsilons = [torch.finfo(o.dtype).eps for o in outputs if o.is_floating_point()]
    return max(sizes, default=0.0) * max(epsilons, default=0.0)


def _other_decisions(outputs: list[Tensor], expected: list[Tensor], bound: float) -> int:
    """Samples whose largest output is clearly another one."""
    count = 0
    for a, b in zip(outputs, expected, strict=True):
        if a.shape != b.shape or b.dim() != 2 or b.shape[1] < 2:
            continue
        largest = b.topk(2, 1).values
        clear = largest[:, 0] - largest[:, 1] > 2 * bound
        count += int((clear & (a.argmax(1) != b.argmax(1))).sum())
    return count
