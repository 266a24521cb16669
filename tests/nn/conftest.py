"""Real gloo workers for the tests in this folder: a few processes, started once, that run functions as a group."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

MOST_WORKERS = 4


def _serve(pipe: Connection) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    while (job := pipe.recv()) is not None:
        rank, size, store, payload = job
        try:
            dist.init_process_group("gloo", store=FileStore(store, size), rank=rank, world_size=size)
            function, arguments = cloudpickle.loads(payload)
            pipe.send((True, cloudpickle.dumps(function(rank, *arguments))))
        except Exception:
            pipe.send((False, traceback.format_exc()))
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
    os._exit(0)  # torch's own clean-up takes seconds and there is nothing to save


class Workers:
    """Runs `function(rank, *arguments)` on every worker of a fresh gloo group and returns the results by rank."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._groups = 0
        self._pipes: list[Connection] = []
        self._processes: list[multiprocessing.process.BaseProcess] = []

    def _start_another(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        self._pipes.append(ours)
        self._processes.append(process)

    def run(self, size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        while len(self._pipes) < size:
            self._start_another()
        cloudpickle.register_pickle_by_value(sys.modules[function.__module__])
        payload = cloudpickle.dumps((function, arguments))
        self._groups += 1
        store = self._folder / f"group{self._groups}"
        for rank in range(size):
            self._pipes[rank].send((rank, size, os.fspath(store), payload))
        replies = []
        for rank in range(size):
            assert self._pipes[rank].poll(60), f"worker {rank} of {size} did not answer within 60 s"
            replies.append(self._pipes[rank].recv())
        failures = [text for fine, text in replies if not fine]
        assert not failures, "\n".join(failures)
        return [cloudpickle.loads(result) for _, result in replies]

    def stop(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(10)
            if process.is_alive():
                process.terminate()


@pytest.fixture(scope="session")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    group = Workers(tmp_path_factory.mktemp("gloo"))
    yield group
    group.stop()


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
