"""The served graph: a folded network as ONNX, and the proof that ONNX Runtime computes the same with it."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

INPUT, OUTPUT = "pixels", "logits"


def export(model: nn.Module, pixels: torch.Tensor, output: str = OUTPUT, *, optimize: bool = True) -> bytes:
    """`model` as ONNX: input `pixels` FP32 [batch, channels, height, width], one output, `logits` [batch, classes].

    `output` names it otherwise. The batch is free; `pixels` [n, channels, height, width] is an example with n above 1.
    Without `optimize` that is left to the engine: the exporter's tries every rule on every node, which is half of the
    time that a graph of a thousand nodes takes.
    """
    dynamic = {0: torch.export.Dim("batch", min=1)}
    with _quiet():
        program = torch.onnx.export(
            model.eval(),
            (pixels,),
            input_names=[INPUT],
            output_names=[output],
            dynamic_shapes=(dynamic,),
            dynamo=True,
            optimize=optimize,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    _strip(proto)
    return bytes(proto.SerializeToString())


def _strip(proto: Any) -> None:
    """Removes what the exporter notes about its own work: stack traces with paths of this machine."""
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]


def run(graph: bytes, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The one output, the logits, that ONNX Runtime computes for `pixels` [n, channels, height, width]."""
    import onnxruntime  # here: it starts a thread, and a fork server may have none

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {INPUT: pixels})
    return np.asarray(logits)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's progress lines and its libraries' warnings out of the user's log."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
