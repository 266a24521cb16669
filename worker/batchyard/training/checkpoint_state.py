"""What has state that training depends on, each with `state_dict` and `load_state_dict`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import nn

from batchyard.training.checkpoint import Scalar
from batchyard.training.group import Group
from batchyard.training.spec import TrainingJobSpec

State = Mapping[str, torch.Tensor | Scalar]


class Stateful(Protocol):
    """Something that training depends on and that changes with it."""

    def state_dict(self) -> State:
        """All of its state; the tensors may be its own."""

    def load_state_dict(self, state: State) -> None:
        """Goes on from what `state_dict` gave, on the CPU, whichever device it was on."""


class ModelState:
    """Every parameter and buffer of a model, those that its own state_dict leaves out too."""

    def __init__(self, model: nn.Module, only: str = "") -> None:
        """`only`: "buffers" for those alone, "parameters" likewise."""
        parameters = () if only == "buffers" else model.named_parameters()
        buffers = () if only == "parameters" else model.named_buffers()
        self._tensors: dict[str, torch.Tensor] = dict((*parameters, *buffers))

    def state_dict(self) -> State:
        """By qualified name."""
        return {name: tensor.detach() for name, tensor in self._tensors.items()}

    @torch.no_grad()
    def load_state_dict(self, state: State) -> None:
        """Copies in place: the optimiser and the hooks go on with the same tensors."""
        for name, tensor in self._tensors.items():
            value = state[name]
            assert isinstance(value, torch.Tensor)
            tensor.copy_(value)


class Generators:
    """The random number generators of a process, which dropout draws from."""

    def __init__(self, device: torch.device, seed: int, rank: int) -> None:
        """Seeds them for a job's beginning: each worker draws its own numbers."""
        self._device = device
        torch.manual_seed((seed * 4096 + rank) % 2**64)

    def state_dict(self) -> State:
        """Their states as bytes."""
        states = {"cpu": torch.get_rng_state()}
        return states | ({"cuda": torch.cuda.get_rng_state(self._device)} if self._device.type == "cuda" else {})

    def load_state_dict(self, state: State) -> None:
        """Sets them."""
        cpu = state["cpu"]
        assert isinstance(cpu, torch.Tensor)
        torch.set_rng_state(cpu)
        if self._device.type == "cuda":
            cuda = state["cuda"]
            assert isinstance(cuda, torch.Tensor)
            torch.cuda.set_rng_state(cuda, self._device)


Parts = dict[str, Stateful]


def state_of(
    model: nn.Module, spec: TrainingJobSpec, group: Group, meter: Stateful, **shared: Stateful
) -> tuple[Parts, Parts]:
    """What training depends on: what all workers share (`shared` beside the weights), and what each has for itself."""
    own: Parts = {"meter": meter, "generators": Generators(group.device, spec.seed, group.rank)}
    if spec.workers.sync_batch_norm == "world":
        return {"model": ModelState(model), **shared}, own
    # Each worker normalises by itself, and so has running statistics of its own.
    own["buffers"] = ModelState(model, only="buffers")
    return {"model": ModelState(model, only="parameters"), **shared}, own
