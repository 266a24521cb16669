"""How the network is run in training: precision, memory layout, compilation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from batchyard.training.spec import TrainingJobSpec

Forward = Callable[[Tensor], Tensor]
"""From raw pixels to logits, fp32."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def lay_out(spec: TrainingJobSpec, model: nn.Module) -> None:
    """Lays the convolutions' weights out in memory as `spec` says."""
    if spec.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stub lacks it alone


def forward_of(spec: TrainingJobSpec, model: nn.Module) -> Forward:
    """Runs `model` as `spec` says; the model itself where it says nothing special.

    In bf16 and fp16 under torch.autocast: convolutions and products in that type, the rest in fp32. Weights stay fp32.
    """
    run: Forward = model
    if spec.channels_last:
        run = _channels_last(run)
    if spec.precision != "fp32":
        run = _autocast(run, DTYPES[spec.precision])
    return run


def _channels_last(run: Forward) -> Forward:
    def forward(images: Tensor) -> Tensor:
        return run(images.contiguous(memory_format=torch.channels_last))

    return forward


def _autocast(run: Forward, dtype: torch.dtype) -> Forward:
    def forward(images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, dtype):
            logits = run(images)
        return logits.float()

    return forward
