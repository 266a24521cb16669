"""Tracing through decisions that depend on shapes: `if x.shape[1] == 3`, `for part in x.chunk(2, 1)`.

Every value of the graph carries what it is for the example inputs, as a fake tensor that has a shape and no content. A
decision on a shape is then made as for the examples; one on content cannot be, and ends the trace.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from batchyard.nn.folding.in_double import doubled, in_double


class ShapeTracer(fx.Tracer):
    """A tracer that knows shapes; `is_leaf` decides which modules stay whole."""

    def __init__(self, inputs: tuple[Any, ...], is_leaf: Callable[[nn.Module, str], bool]) -> None:
        super().__init__()
        self._inputs, self._is_leaf = doubled(inputs), is_leaf
        from torch._subclasses.fake_tensor import FakeTensorMode  # here, because it imports sympy: 0.7 s

        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._evaluating = False

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """The graph of `root` for inputs of the examples' shapes."""
        bound = inspect.signature(root.forward).bind(*self._inputs)
        bound.apply_defaults()
        self._arguments = bound.arguments
        return super().trace(root, concrete_args)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a call of `m` is one node."""
        return self._is_leaf(m, module_qualified_name)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **options: Any) -> fx.Proxy:
        """A node, and what it is for the examples."""
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **options)
        if kind != "output":
            self._evaluating = True
            try:
                with in_double(), self._mode, torch.no_grad():
                    proxy.node.meta["value"] = self._value(kind, target, args, kwargs)
            except Exception:  # not known for examples without content: no decision can be made on it
                proxy.node.meta.pop("value", None)
            finally:
                self._evaluating = False
        return proxy

    def _value(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        if kind == "placeholder":
            given = self._arguments[str(target).lstrip("*")]
            return self._mode.from_tensor(given) if isinstance(given, Tensor) else given
        if kind == "get_attr":
            owner, _, name = str(target).rpartition(".")
            return getattr(self.root.get_submodule(owner), name)
        args, kwargs = map_aggregate(args, _carried), map_aggregate(kwargs, _carried)
        if kind == "call_function":
            return target(*args, **kwargs)
        if kind == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return self.root.get_submodule(target)(*args, **kwargs)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A call of a module: a node, or plainly a call while a value is worked out."""
        return forward(*args, **kwargs) if self._evaluating else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """A module's attribute: a node where it is a parameter, unless a value is worked out."""
        return attr_val if self._evaluating else super().getattr(attr, attr_val, parameter_proxy_cache)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """A decision: made where it is about shapes."""
        value = obj.node.meta.get("value")
        return bool(value) if isinstance(value, bool | int | float) else super().to_bool(obj)

    def iter(self, obj: Any) -> Iterator[Any]:
        """A loop: over a tuple whose length is known."""
        value = obj.node.meta.get("value")
        if isinstance(value, tuple | list):
            return iter([obj[i] for i in range(len(value))])
        return super().iter(obj)


def _carried(value: Any) -> Any:
    """What a proxy stands for; raises KeyError where that is not known."""
    return value.node.meta["value"] if isinstance(value, fx.Proxy) else value


def other_batch_sizes(inputs: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """The inputs with one sample, and with twice as many as they have."""
    batched = [isinstance(x, Tensor) and x.dim() > 0 for x in inputs]
    yield tuple(x[:1] if b else x for x, b in zip(inputs, batched, strict=True))
    yield tuple(torch.cat([x, x]) if b else x for x, b in zip(inputs, batched, strict=True))
