"""How the network is run in training: precision, memory layout, compilation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from batchyard.training.events import TrainingError
from batchyard.training.losses import Loss
from batchyard.training.spec import TrainingJobSpec

Forward = Callable[[Tensor], Tensor]
"""From raw pixels to logits, fp32."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def lay_out(spec: TrainingJobSpec, model: nn.Module) -> None:
    """Lays the convolutions' weights out in memory as `spec` says."""
    if spec.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stub lacks it alone


def forward_of(spec: TrainingJobSpec, model: nn.Module, measuring: Callable[[], bool] = lambda: False) -> Forward:
    """Runs `model` as `spec` says; the model itself where it says nothing special.

    In bf16 and fp16 under torch.autocast: convolutions and products in that type, the rest in fp32. Weights stay fp32.
    While `measuring`, a compiled model runs as it is: its hooks are no part of what was compiled.
    """
    run: Forward = model
    if spec.compile:
        run = _compiled(model, measuring)
    if spec.channels_last:
        run = _channels_last(run)
    if spec.precision != "fp32":
        run = _autocast(run, DTYPES[spec.precision])
    return run


def _compiled(model: nn.Module, measuring: Callable[[], bool]) -> Forward:
    compiled: Forward = torch.compile(model, dynamic=False)

    def forward(images: Tensor) -> Tensor:
        return model(images) if measuring() else compiled(images)

    return forward


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


def warm_up(
    forward: Forward, loss_of: Loss, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device
) -> float:
    """Has everything compiled that training on batches like `batches` needs, before the first step. Returns seconds.

    Leaves random numbers and the model's buffers as they were; its gradients are of no use after it. Raises
    TrainingError where it cannot be compiled.
    """
    from torch._dynamo.exc import TorchDynamoException  # here: it takes a second, which most jobs need not spend

    began = time.perf_counter()
    kept = [buffer.clone() for buffer in model.buffers()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for images, labels in {len(labels): (images, labels) for images, labels in batches}.values():
            try:
                torch.autograd.backward(loss_of(forward(images), labels))
            except TorchDynamoException as error:
                reason = str(error).strip().partition("\n")[0]
                raise TrainingError(
                    f"compile: true given; torch.compile fails: {reason}",
                    "set compile to false, or install a C++ compiler (g++) where the workers run",
                ) from error
    for buffer, before in zip(model.buffers(), kept, strict=True):
        buffer.data.copy_(before)
    return time.perf_counter() - began
