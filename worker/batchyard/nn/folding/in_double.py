"""Runs a network in fp64 even where its code asks for fp32 by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@contextmanager
def in_double() -> Iterator[None]:
    """Within it, fp32 means fp64: as an argument, as the default of new tensors, and in `Tensor.float()`."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Widening():
            yield
    finally:
        torch.set_default_dtype(default)


def doubled(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Copies of `inputs` on the CPU, with floating tensors in fp64."""
    return tuple(_doubled(x) if isinstance(x, Tensor) else x for x in inputs)


def _doubled(x: Tensor) -> Tensor:
    return x.detach().to("cpu", torch.float64 if x.is_floating_point() else x.dtype, copy=True)


class _Widening(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.float:
            return args[0].double()
        return func(*map(_wide, args), **{name: _wide(value) for name, value in (kwargs or {}).items()})


def _wide(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
