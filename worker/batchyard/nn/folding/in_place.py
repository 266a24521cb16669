"""Makes a graph free of in-place operations, so that moving a value in it cannot meet a change of its memory."""

from __future__ import annotations

import inspect
import operator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.dropout import _DropoutNd

from batchyard.nn.folding.tracing import module_of, name_of, untrusted

_OPERATORS = {getattr(operator, f"i{name}"): getattr(operator, name) for name in ("add", "sub", "mul", "truediv")}
_MAY_BE_VIEWS = {
    "view", "reshape", "flatten", "unflatten", "permute", "transpose", "t", "swapaxes", "squeeze", "unsqueeze",
    "narrow", "expand", "expand_as", "chunk", "split", "tensor_split", "unbind", "select", "movedim", "contiguous",
    "to", "view_as", "detach", "getitem", "getattr", "diagonal", "unfold", "dropout",
}  # fmt: skip


def drop_identities(graph: fx.GraphModule) -> None:
    """Takes out the modules that give back what they are given: Identity, and dropout in evaluation."""
    for node in list(graph.graph.nodes):
        module = module_of(graph, node)
        dropout = isinstance(module, _DropoutNd) and not module.training
        if (type(module) is nn.Identity or dropout) and not untrusted(cast(nn.Module, module)):
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.graph.erase_node(node)


def without_in_place(graph: fx.GraphModule) -> str:
    """Replaces in-place operations by ordinary ones. Returns why it cannot, empty when it could."""
    for node in list(graph.graph.nodes):
        if not _writes(graph, node):
            continue
        target = node.args[0] if node.args else None
        if not isinstance(target, fx.Node):
            return f"{name_of(node)} writes into one of its inputs"
        if _may_be_view(graph, target) or any(_may_be_view(graph, user) for user in target.users):
            return f"{name_of(node)} writes in place into {name_of(target)}, of which there may be views"
        if not _make_ordinary(graph, node):
            return f"{name_of(node)} writes in place, and has no ordinary form that is known"
        later = [user for user in target.users if node < user]
        for user in later:
            user.replace_input_with(target, node)
    return ""


def _writes(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return bool(getattr(module_of(graph, node), "inplace", False))
    if node.op == "call_method":
        return _ends_in_place(str(node.target))
    if node.op != "call_function":
        return False
    if node.target in _OPERATORS or node.target is operator.setitem or node.kwargs.get("out") is not None:
        return True
    name = getattr(node.target, "__name__", "")
    return _ends_in_place(name) or name in ("iadd", "imul", "isub", "ipow", "iand", "ior", "ixor") or _asks(node)


def _asks(node: fx.Node) -> bool:
    """Whether a functional call has inplace=True, by name or by place."""
    if "inplace" in node.kwargs:
        return bool(node.kwargs["inplace"])
    if getattr(node.target, "__module__", "") != F.__name__:
        return False
    try:
        names = list(inspect.signature(cast("type[Tensor]", node.target)).parameters)
    except (TypeError, ValueError):
        return False
    place = names.index("inplace") if "inplace" in names else len(node.args)
    return place < len(node.args) and bool(node.args[place])


def _ends_in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def _make_ordinary(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        module = cast(nn.Module, module_of(graph, node))
        module.inplace = False  # type: ignore[assignment]
        return True
    if node.op == "call_method":
        node.target = str(node.target)[:-1]
        return hasattr(Tensor, node.target)
    if node.kwargs.get("out") is not None or node.target is operator.setitem:
        return False
    if node.target in _OPERATORS:
        node.target = _OPERATORS[node.target]
    elif _asks(node):
        if "inplace" not in node.kwargs:
            names = list(inspect.signature(cast("type[Tensor]", node.target)).parameters)
            node.args = tuple(False if n == "inplace" else a for n, a in zip(names, node.args, strict=False))
        else:
            node.kwargs = {**node.kwargs, "inplace": False}
    else:
        name = getattr(node.target, "__name__", "")[:-1]
        ordinary = getattr(F, name, None) or getattr(torch, name, None)
        if ordinary is None:
            return False
        node.target = ordinary
    return True


def _may_be_view(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the value may share memory with another one."""
    if node.op in ("placeholder", "get_attr"):
        return True
    if node.op == "call_module":
        return isinstance(module_of(graph, node), nn.Flatten | nn.Unflatten | nn.Identity | _DropoutNd)
    return str(getattr(node.target, "__name__", node.target)) in _MAY_BE_VIEWS
