"""Layer by layer: zero and unit impulses prove that two affine maps are one.

Where folding changed a graph, a region of it and a region of the original lie between values that are equal. Every
region is small: a layer, the normalisations folded into it, and what passes them on (flatten, pooling, concatenation).
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchyard.nn.folding.algebra import CONVOLUTIONS, TRANSPOSED
from batchyard.nn.folding.fold import FoldedModel
from batchyard.nn.folding.passing import SAME_VALUES, asks_for_shape
from batchyard.nn.folding.tracing import module_of, shape_of
from batchyard.nn.input_normalization import InputNormalization

MOST_BASIS = 1024
"""Values of at most this many numbers are probed with their whole basis."""
MOST_PROBES = 128
"""Impulses of a region at most; beyond that, impulses are random mixtures of channels at one place."""
MIXTURES = 2
ROUNDINGS = 8.0
"""Allowed difference, in roundings of the root of sum((weight * input)^2) + bias^2: roundings of single weights are as
likely up as down. Seen: below 1."""


@dataclass(frozen=True)
class LayerProof:
    """The proof for one region, which ends at the folded node `name`."""

    name: str
    passed: bool
    roundings: float
    """Largest difference, in roundings of the folded weights."""
    probes: int
    reason: str


def prove_layers(folded: FoldedModel, original: fx.GraphModule) -> list[LayerProof]:
    """Proves every region where the two graphs differ. `original` is the fp64 graph, its shapes measured."""
    nodes = {node.name: node for node in original.graph.nodes}
    equals = {n: nodes[folded.equals[n.name]] for n in folded.module.graph.nodes if folded.equals.get(n.name) in nodes}
    double = _Double(folded.module)
    proofs = []
    for node, counterpart in equals.items():
        if node.op not in ("placeholder", "get_attr") and not _same(folded.module, original, node, counterpart, equals):
            proofs.append(_prove(double, original, node, counterpart, equals))
    return proofs


def _same(
    folded: fx.GraphModule, original: fx.GraphModule, node: fx.Node, other: fx.Node, equals: dict[fx.Node, fx.Node]
) -> bool:
    """Whether both nodes visibly do the same to equal values, with bitwise the same parameters."""
    if node.op == "output":
        return [equals.get(n) for n in node.all_input_nodes] == list(other.all_input_nodes)
    if any(n not in equals for n in node.all_input_nodes):
        return False
    if asks_for_shape(node) and asks_for_shape(other):  # of a value that folding may have moved over a normalisation
        measured = [shape_of(n) for n in (equals[node.all_input_nodes[0]], other.all_input_nodes[0])]
        asked = (node.op, node.target, node.args[1:], node.kwargs) == (
            other.op,
            other.target,
            other.args[1:],
            other.kwargs,
        )
        return asked and measured[0] is not None and measured[0] == measured[1]
    ours = fx.map_arg((node.args, node.kwargs), lambda n: equals[n])
    if node.op != other.op or ours != (other.args, other.kwargs):
        return False
    if node.op != "call_module":
        return bool(node.target == other.target)
    a, b = (g.get_submodule(cast(str, n.target)) for g, n in ((folded, node), (original, other)))
    if type(a) is not type(b) or _settings(a) != _settings(b):
        return False
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k].cpu(), theirs[k].to(mine[k].dtype)) for k in mine)


def _settings(module: nn.Module) -> str:
    """A module's settings, but for whether it works in place."""
    return module.extra_repr().replace("inplace=True", "")


def _prove(
    double: _Double,
    original: fx.GraphModule,
    node: fx.Node,
    counterpart: fx.Node,
    equals: dict[fx.Node, fx.Node],
) -> LayerProof:
    name = str(node.target) if node.op == "call_module" else node.name
    ours, boundary = _region(node, set(equals))
    theirs, reached = _region(counterpart, {equals[n] for n in boundary})
    if strangers := [n for n in theirs if n.op == "placeholder"] or set(reached) - {equals[n] for n in boundary}:
        return LayerProof(name, False, math.inf, 0, f"the original also reads {', '.join(map(str, strangers))}")
    measured = [n for n in boundary if isinstance(equals[n].meta.get("value"), Tensor)]
    known = {n: equals[n].meta.get("value") for n in boundary if n not in measured}
    shapes = [tuple(equals[n].meta["value"].shape) for n in measured]
    one_by_one = bool(known) or any(not s or s[0] != 1 for s in shapes)
    if not one_by_one:
        shapes = _cropped(shapes, _reach(original, theirs))
    worst, count, exact = 0.0, 0, _Exact(original)
    for probes in _probes(shapes, one_by_one):
        values = dict(zip(measured, probes.values, strict=True)) | known
        before = _evaluate(exact, theirs, {equals[n]: v for n, v in values.items()}, counterpart)
        after = _evaluate(double.exact, ours, values, node)
        size = _evaluate(double.squares, ours, dict(zip(measured, probes.squares, strict=True)) | known, node)
        count += len(probes.values[0]) if probes.values else 1
        worst = max(worst, _roundings(before, after, size, double.epsilon))
        if asks_for_shape(counterpart):  # no value can change its answer
            break
    passed = worst <= ROUNDINGS
    reason = "" if passed else f"differs from the original by {worst:.3g} roundings; at most {ROUNDINGS:g} are allowed"
    return LayerProof(name, passed, worst, count, reason)


def _region(end: fx.Node, boundary: set[fx.Node]) -> tuple[list[fx.Node], list[fx.Node]]:
    """The nodes that `end` is computed with, up to `boundary`, in graph order; and the boundary nodes reached."""
    inside, reached, waiting = {end}, [], list(end.all_input_nodes)
    while waiting:
        node = waiting.pop()
        if node in boundary and node.op != "get_attr":
            if node not in reached:
                reached.append(node)
        elif node not in inside:
            inside.add(node)
            waiting += node.all_input_nodes
    return sorted(inside), reached


def _evaluate(interpreter: fx.Interpreter, region: list[fx.Node], values: dict[fx.Node, Any], end: fx.Node) -> Any:
    """The value of `end` when the boundary has `values`."""
    interpreter.env = {n: v.clone() if isinstance(v, Tensor) else v for n, v in values.items()}
    for node in region:
        interpreter.env[node] = interpreter.run_node(node)
    return interpreter.env[end]


class _Probes(NamedTuple):
    """A batch of inputs of a region, one tensor for each value that it reads."""

    values: list[Tensor]
    squares: list[Tensor]
    """Bounds of values^2; one row may stand for several."""


def _probes(shapes: list[tuple[int, ...]], one_by_one: bool) -> Iterator[_Probes]:
    """Zero and dense inputs in every value at once, then impulses in one value after the other."""
    generator = torch.Generator().manual_seed(0)
    likes = [s if one_by_one else s[1:] for s in shapes]
    dense = [torch.randn(2, *like, generator=generator, dtype=torch.float64) for like in likes]
    batches = [_bounded([torch.cat([torch.zeros_like(d[:1]), d]) for d in dense], 3)]
    for i, like in enumerate(likes):
        impulses, together = _impulses(like, generator)
        others = [impulses.new_zeros(len(impulses), *other) for other in likes]
        batches.append(_bounded([*others[:i], impulses, *others[i + 1 :]], together))
    for batch in batches:
        if not one_by_one or not batch.values:
            yield batch
        else:
            for k in range(len(batch.values[0])):
                one = [part[k] for part in batch.values]
                yield _Probes(one, [part.square() for part in one])


def _bounded(values: list[Tensor], together: int) -> _Probes:
    """Takes every `together` rows, which are alike, for one when it comes to their size."""
    return _Probes(values, [v.square().reshape(-1, together, *v.shape[1:]).amax(1) for v in values])


def _impulses(shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, int]:
    """Unit impulses for a value of `shape` (C, ...): everywhere when they are few, else at corner, edge and middle.

    Where the channels are many as well, an impulse holds a random mixture of channels. Returns the impulses, and how
    many consecutive ones are at one place.
    """
    size = math.prod(shape)
    if size <= MOST_BASIS and size <= MOST_PROBES * max(1, size // max(1, shape[0] if shape else 1)):
        return torch.eye(size, dtype=torch.float64).view(size, *shape), 1
    channels, places = shape[0], _places(shape[1:])
    if channels * len(places) <= MOST_PROBES:
        mixtures = torch.eye(channels, dtype=torch.float64)
    else:
        mixtures = torch.randn(MIXTURES, channels, generator=generator, dtype=torch.float64)
    impulses = torch.zeros(len(places), len(mixtures), *shape, dtype=torch.float64)
    for k, place in enumerate(places):
        impulses[k].view(len(mixtures), channels, -1)[:, :, _flat_index(place, shape[1:])] = mixtures
    return impulses.flatten(0, 1), len(mixtures)


def _places(extents: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The middle, the two far corners, and an edge in each direction."""
    middle, first, last = (tuple(f(n) for n in extents) for f in (lambda n: n // 2, lambda n: 0, lambda n: n - 1))
    edges = [tuple(0 if i == j else at for j, at in enumerate(middle)) for i in range(len(extents))]
    return list(dict.fromkeys([middle, first, last, *edges]))


_LOCAL = (*CONVOLUTIONS, *TRANSPOSED, _BatchNorm, *SAME_VALUES, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_LOCAL_MAXIMA = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)


def _reach(graph: fx.GraphModule, region: list[fx.Node]) -> int:
    """How far a region's output looks, in steps of its input; 0 where places cannot be exchanged, as in flatten."""
    reach = 1
    for node in region:
        module = module_of(graph, node)
        if node.op == "get_attr" or node.target in (operator.add, torch.add, torch.cat):
            continue
        if not isinstance(module, (*_LOCAL, *_LOCAL_MAXIMA, InputNormalization)):
            return 0
        kernel, dilation = (getattr(module, name, 1) for name in ("kernel_size", "dilation"))
        extents = [k if isinstance(k, int) else max(k) for k in (kernel, dilation)]
        reach += extents[1] * (extents[0] - 1)
    return reach


def _cropped(shapes: list[tuple[int, ...]], reach: int) -> list[tuple[int, ...]]:
    """The same values over fewer places, where those are enough to have a border and a middle."""
    if not reach or len({s[2:] for s in shapes}) > 1:
        return shapes
    return [(*s[:2], *(min(n, reach + 2) for n in s[2:])) for s in shapes]


def _flat_index(place: tuple[int, ...], shape: tuple[int, ...]) -> int:
    index = 0
    for at, extent in zip(place, shape, strict=True):
        index = index * extent + at
    return index


def _roundings(before: Any, after: Any, size: Any, epsilon: float) -> float:
    if not (isinstance(before, Tensor) and isinstance(after, Tensor)) or before.shape != after.shape:
        return 0.0 if before is after or (not isinstance(before, Tensor) and before == after) else math.inf
    difference = (before.double() - after.double()).abs()
    allowed = epsilon * size.double().sqrt() + torch.finfo(torch.float64).tiny
    if len(size) != len(before):
        allowed = allowed.repeat_interleave(len(before) // len(size), 0)
    # Where nothing but rounding of the original's own fp64 arithmetic is left, a hundred of those are forgiven.
    ratio = (difference - 100 * torch.finfo(torch.float64).eps * before.abs().max()).clamp(min=0) / allowed
    return float(ratio.nan_to_num(math.inf).max()) if ratio.numel() else 0.0


class _Double:
    """The folded network in fp64, once as it is and once with squared parameters, for the size of a sum's terms."""

    def __init__(self, folded: fx.GraphModule) -> None:
        epsilons = [torch.finfo(p.dtype).eps for p in folded.state_dict().values() if p.is_floating_point()]
        self.epsilon = max(epsilons, default=torch.finfo(torch.float64).eps)
        self.exact = _Exact(copy.deepcopy(folded).double().cpu())
        squared = copy.deepcopy(folded).double().cpu()
        for tensor in (*squared.parameters(), *squared.buffers()):
            if tensor.is_floating_point():
                tensor.square_()
        self.squares = _Squares(squared)


class _Exact(fx.Interpreter):
    """Computes everything in fp64, also where the graph casts."""

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args = tuple(torch.float64 if isinstance(a, torch.dtype) and a.is_floating_point else a for a in args)
        return super().call_method(target, args, kwargs)


class _Squares(_Exact):
    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target is F.pad and len(args) == 4:
            args = (*args[:3], args[3] ** 2)
        return super().call_function(target, args, kwargs)
