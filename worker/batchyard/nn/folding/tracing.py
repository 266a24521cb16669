"""The graph of a network, and questions about its nodes."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import is_parametrized

from batchyard.nn.folding.in_double import doubled, in_double
from batchyard.nn.folding.shape_tracing import ShapeTracer, other_batch_sizes
from batchyard.nn.input_normalization import InputNormalization
from batchyard.nn.sync_batchnorm import SyncBatchNorm


class FoldError(ValueError):
    """The network cannot be folded, or not trusted after folding; the message says why and what to do."""


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, SyncBatchNorm | InputNormalization):
            return True
        return super().is_leaf_module(m, module_qualified_name)


def double_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` in fp64 and evaluation mode on the CPU, without the hooks of ActivationStats."""
    try:
        copied = copy.deepcopy(model)
    except Exception as error:
        raise FoldError(f"{type(model).__name__} cannot be copied: {error}; folding works on a copy") from error
    for module in copied.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if getattr(hook, "observes_only", False)]:
                del hooks[key]
    copied = copied.double().cpu().eval()
    for module in list(copied.modules()):
        if is_parametrized(module):
            _settle(module)
    return copied


@torch.no_grad()
def _settle(module: nn.Module) -> None:
    """Parametrised weights become what they are computed to be. The class is shared with the original: left alone."""
    values = {name: getattr(module, name).clone() for name in cast(nn.ModuleDict, module.parametrizations)}
    module.__class__ = type(module).__bases__[0]
    del module.parametrizations
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value))


def trace(model: nn.Module, inputs: tuple[Any, ...]) -> fx.GraphModule:
    """The graph of a copy that `double_copy` made; it may decide by the shapes of `inputs`, but not by the batch size.

    Raises FoldError where the network's forward cannot be traced.
    """
    if model._forward_hooks or model._forward_pre_hooks:
        raise FoldError("the network has forward hooks of its own, which no graph can hold; remove them first")
    try:
        graph = _Tracer().trace(model)
    except Exception:  # 20 ms for ResNet-50, where torch.export takes 1.4 s; what decides by shapes takes the long way
        graph = _trace_by_shapes(model, inputs)
    return fx.GraphModule(model, graph, type(model).__name__)


def _trace_by_shapes(model: nn.Module, inputs: tuple[Any, ...]) -> fx.Graph:
    leaf = _Tracer().is_leaf_module
    try:
        graphs = [ShapeTracer(given, leaf).trace(model) for given in (inputs, *other_batch_sizes(inputs))]
    except Exception as error:
        raise FoldError(
            f"{type(model).__name__} cannot be traced: {type(error).__name__}: {error}; "
            "move what depends on values out of forward, or into a module of its own"
        ) from error
    if len(set(map(str, graphs))) > 1:
        raise FoldError(f"what {type(model).__name__} does depends on the batch size; no one graph can stand for it")
    return graphs[0]


class _Recorder(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph, garbage_collect_values=False)

    def run_node(self, n: fx.Node) -> Any:
        n.meta["value"] = super().run_node(n)
        return n.meta["value"]


def record_values(graph: fx.GraphModule, inputs: tuple[Any, ...]) -> None:
    """Notes every node's value for `inputs` in fp64: a tensor's shape and dtype, of which only those mean anything."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # here, because it imports sympy: 0.7 s

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with in_double(), mode, torch.no_grad():
            _Recorder(graph).run(*(mode.from_tensor(x) if isinstance(x, Tensor) else x for x in doubled(inputs)))
    except Exception:  # shapes that depend on values: only a real run tells
        with in_double(), torch.no_grad():
            _Recorder(graph).run(*doubled(inputs))


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """The shape measured for a node; None for what is not one tensor."""
    value = node.meta.get("value")
    return tuple(value.shape) if isinstance(value, Tensor) else None


def module_of(graph: fx.GraphModule, node: object) -> nn.Module | None:
    """The module that a node calls."""
    if isinstance(node, fx.Node) and node.op == "call_module":
        return graph.get_submodule(cast(str, node.target))
    return None


def untrusted(module: nn.Module) -> str | None:
    """Why a module may compute something else than its class and parameters say; None when it does not."""
    if module._forward_hooks or module._forward_pre_hooks:
        return "has forward hooks"
    if "forward" in vars(module):
        return "has a forward of its own"
    return None


def name_of(node: fx.Node) -> str:
    """The name that a person knows a node by: its module's qualified name, else the graph's."""
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack")
    path = next(reversed(stack.values()))[0] if stack else ""
    return f"{path}.{node.name}" if path else node.name


def constant(graph: fx.GraphModule, value: object) -> Tensor | None:
    """The tensor that a get_attr node reads; None for anything else."""
    if not (isinstance(value, fx.Node) and value.op == "get_attr"):
        return None
    owner, _, name = cast(str, value.target).rpartition(".")
    found = getattr(graph.get_submodule(owner), name, None)
    return found if isinstance(found, Tensor) else None


def free_name(graph: fx.GraphModule, wish: str) -> str:
    """`wish`, or `wish` with a number, that no submodule and no attribute has."""
    taken = {name for name, _ in graph.named_modules(remove_duplicate=False)}
    taken |= {name for name, _ in graph.named_parameters(remove_duplicate=False)}
    taken |= {name for name, _ in graph.named_buffers(remove_duplicate=False)}
    name, number = wish, 2
    while name in taken:
        name, number = f"{wish}_{number}", number + 1
    return name


def own_module(graph: fx.GraphModule, node: fx.Node) -> nn.Module:
    """The module that `node` calls, made its own: copied first where anything else reads it or its parameters."""
    target = cast(str, node.target)
    module = graph.get_submodule(target)
    others = [n for n in graph.graph.nodes if n is not node and _reads(n, target)]
    if others:
        module = copy.deepcopy(module)
        node.target = free_name(graph, f"{target}_call")
        graph.add_submodule(node.target, module)
    return module


def _reads(node: fx.Node, target: str) -> bool:
    if node.op == "call_module":
        return node.target == target
    return node.op == "get_attr" and str(node.target).startswith(f"{target}.")
