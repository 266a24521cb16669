"""fold: every batch normalisation of a network goes into the layers around it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from batchyard.nn.folding.algebra import ChannelAffine
from batchyard.nn.folding.canonical import Found, canonicalize
from batchyard.nn.folding.in_double import doubled, in_double
from batchyard.nn.folding.in_place import drop_identities, without_in_place
from batchyard.nn.folding.plan import Plan, Stays, listed
from batchyard.nn.folding.rules import backwards, drop_passed, forwards
from batchyard.nn.folding.tracing import FoldError, double_copy, record_values, trace

AGREEMENT = 1e-9
"""Largest error of the fp64 network after folding, relative to its largest output; fp64 rounding is far below."""


@dataclass(frozen=True)
class FoldEntry:
    """What became of one normalisation; a layer that is called twice has two entries, the second named `bn#2`."""

    name: str
    status: str
    """folded: gone, into the layers `into`. affine: left as y = scale * x + shift. refused: left as it was."""
    into: str
    """Names of the layers that it went into, joined by ", "."""
    reason: str
    """Why it is not gone; empty for folded."""
    gamma: Tensor | None
    """The learned scale, [C]: its absolute value is the standard deviation of the output on training-like data."""
    beta: Tensor | None
    """The learned shift, [C]: the mean of the output on training-like data."""
    output: str = ""
    """The node of the original graph that is its output; empty where forward does not call it."""
    source: str = ""
    """The node of the original graph that is its input."""


@dataclass(frozen=True)
class FoldedModel:
    """A network without its normalisations, and what became of each."""

    module: fx.GraphModule
    """The folded network: same inputs, outputs, dtypes and layer names."""
    report: tuple[FoldEntry, ...]
    """One entry for each BN."""
    inputs: tuple[FoldEntry, ...]
    """One entry for each InputNormalization."""
    equals: dict[str, str]
    """Which value of the folded graph equals which value of the original graph, by node name; certify proves it."""


@torch.no_grad()
def fold(model: nn.Module, example_inputs: tuple[Any, ...]) -> FoldedModel:
    """Folds every BN and InputNormalization of `model` into neighbouring linear layers; `model` stays untouched.

    Works on a copy in fp64 and evaluation mode, and casts last. A BN that cannot go stays as one multiply-add per
    channel; one that cannot be trusted stays as it is; the report says why. Afterwards the fp64 results for
    `example_inputs` are compared with the model's.

    Args:
        model: any network that torch.fx can trace. Its BN layers should have their final running statistics.
        example_inputs: the arguments of one call, to measure shapes with. The batch size may differ later.

    Raises FoldError where the network cannot be copied, traced or run in fp64, or the results differ.
    """
    dtypes = {name: t.dtype for name, t in [*model.named_parameters(), *model.named_buffers()]}
    double = double_copy(model)
    expected = _run(double, example_inputs)
    graph = trace(double, example_inputs)
    record_values(graph, example_inputs)
    found = canonicalize(graph)
    drop_identities(graph)
    places = [_place(f) for f in found]
    hazard = without_in_place(graph)
    entries = [_refused(f, hazard) for f in found] if hazard else _fold_all(graph, found)
    entries = [replace(e, output=output, source=source) for e, (output, source) in zip(entries, places, strict=True)]
    drop_passed(graph)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    _compare(expected, _run(graph, example_inputs))
    _cast(graph, dtypes)
    graph.to(next((t.device for t in model.parameters()), torch.device("cpu")))
    equals = {node.name: node.meta["equals"] for node in graph.graph.nodes if node.meta.get("equals")}
    called = {f.name for f in found}
    unused = [(n, m) for n, m in model.named_modules() if isinstance(m, _BatchNorm) and n not in called]
    report = [e for f, e in zip(found, entries, strict=True) if f.batch_norm]
    report += [
        FoldEntry(n, "refused", "", "the network's forward does not call it", m.weight, m.bias) for n, m in unused
    ]
    inputs = [e for f, e in zip(found, entries, strict=True) if not f.batch_norm]
    return FoldedModel(graph.eval(), _numbered(report), _numbered(inputs), equals)


def _place(found: Found) -> tuple[str, str]:
    """The nodes of the original graph that are a normalisation's output and input."""
    node = cast(fx.Node, found.node)
    source = node.all_input_nodes[0]
    return str(node.meta["equals"]), str(source.meta.get("equals") or "")


def _fold_all(graph: fx.GraphModule, found: list[Found]) -> list[FoldEntry]:
    """Moves maps until none moves any more: one that went may have opened the way for another."""
    entries: dict[int, FoldEntry] = {}
    while True:
        before = sum(e.status == "folded" for e in entries.values())
        for i, f in enumerate(found):
            if i not in entries or (entries[i].status == "affine" and f.node is not None):
                entries[i] = _refused(f, f.refusal) if f.refusal else _fold_one(graph, f)
        if sum(e.status == "folded" for e in entries.values()) == before:
            return [entries[i] for i in range(len(found))]


def _fold_one(graph: fx.GraphModule, found: Found) -> FoldEntry:
    node = cast(fx.Node, found.node)
    source = cast(fx.Node, node.args[0])
    affine = cast(ChannelAffine, graph.get_submodule(cast(str, node.target))).affine
    try:
        plan = backwards(graph, source, affine)
        _apply(graph, plan, node, source, node.meta["equals"])
    except Stays as behind:
        try:
            plan = forwards(graph, node, affine)
            _apply(graph, plan, node, source, source.meta.get("equals"))
        except Stays as ahead:
            return FoldEntry(found.name, "affine", "", f"{behind}; {ahead}", found.gamma, found.beta)
    found.node = None
    into, left = ", ".join(dict.fromkeys(plan.into)), listed(plan.left)
    return FoldEntry(found.name, "affine" if left else "folded", into, left, found.gamma, found.beta)


def _apply(graph: fx.GraphModule, plan: Plan, node: fx.Node, source: fx.Node, equals: str | None) -> None:
    """Makes the plan's edits and takes the map's node out: its readers read `source`, which equals `equals`."""
    for edit in plan.edits:
        edit()
    for changed in plan.changed:
        changed.meta["equals"] = None
    node.replace_all_uses_with(source)
    source.meta["equals"] = equals
    graph.graph.erase_node(node)


def _refused(found: Found, reason: str) -> FoldEntry:
    if found.node is not None and found.is_affine_node:
        return FoldEntry(found.name, "affine", "", reason, found.gamma, found.beta)
    return FoldEntry(found.name, "refused", "", reason, found.gamma, found.beta)


def _numbered(entries: list[FoldEntry]) -> tuple[FoldEntry, ...]:
    """The second entry of a name gets #2, and so on."""
    seen: dict[str, int] = {}
    result = []
    for entry in entries:
        seen[entry.name] = seen.get(entry.name, 0) + 1
        name = entry.name if seen[entry.name] == 1 else f"{entry.name}#{seen[entry.name]}"
        gamma, beta = (None if t is None else t.detach().clone() for t in (entry.gamma, entry.beta))
        result.append(replace(entry, name=name, gamma=gamma, beta=beta))
    return tuple(result)


def _run(module: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    """All tensors that the network returns for `inputs` in fp64."""
    try:
        with in_double():
            result = module(*doubled(inputs))
    except Exception as error:
        raise FoldError(
            f"the network does not run in fp64: {type(error).__name__}: {error}; folding and its proof need it to"
        ) from error
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


def _compare(expected: list[Tensor], folded: list[Tensor]) -> None:
    if [t.shape for t in expected] != [t.shape for t in folded]:
        raise FoldError("the folded network returns other shapes: what forward does must not depend on values")
    for before, after in zip(expected, folded, strict=True):
        if not before.numel() or torch.equal(before.nan_to_num(), after.nan_to_num()):
            continue
        error, largest = float((before - after).abs().max()), float(before.abs().max())
        if not error <= AGREEMENT * max(largest, 1.0):
            raise FoldError(
                f"the folded network's fp64 results differ by {error:.3g} at outputs up to {largest:.3g}: "
                "forward does something that its graph does not show; this network cannot be folded"
            )


def _cast(graph: fx.GraphModule, dtypes: dict[str, torch.dtype]) -> None:
    """Back to the dtypes of the original, parameter by parameter; what is new gets that of the first parameter."""
    common = next((dtype for dtype in dtypes.values() if dtype.is_floating_point), torch.float32)
    for prefix, module in graph.named_modules():
        for store in (module._parameters, module._buffers):
            for name, value in store.items():
                if value is not None and value.dtype == torch.float64:
                    value.data = value.data.to(dtypes.get(f"{prefix}.{name}".lstrip("."), common))
    for node in graph.graph.nodes:
        if node.meta.get("cast"):
            node.args = (node.args[0], common)
    graph.recompile()
