"""ModelInfer: convert, one call, convert back."""

from __future__ import annotations

import asyncio
import time
from typing import Any, NamedTuple

from batchyard.endpoint.errors import FieldViolation, InvalidInputError
from batchyard.endpoint.status import code_of
from batchyard.oip import messages
from batchyard.serving.metrics import Metrics
from batchyard.serving.model import ServedVersion
from batchyard.serving.repository import Repository
from batchyard.serving.request_queue import Scores
from batchyard.serving.request_terms import NO_TERMS, read_terms
from batchyard.serving.shared_memory import REGION, SharedMemory, Span, note_span, span_of
from batchyard.serving.tensors import classify, read_rows, shown
from batchyard.serving.tracing import Tracing


class Inference:
    """ModelInfer over a repository."""

    def __init__(self, repository: Repository, metrics: Metrics, shared_memory: SharedMemory, tracing: Tracing) -> None:
        self._repository = repository
        self._metrics = metrics
        self._shared_memory = shared_memory
        self._tracing = tracing

    async def ModelInfer(self, request: messages.ModelInferRequest, context: Any) -> messages.ModelInferResponse:
        """One inference. Raises the domain errors of reading, batching and resolving."""
        began = time.perf_counter()
        metrics = self._metrics.unknown
        trace = None
        terms = NO_TERMS
        try:
            served = self._repository.resolve(request.model_name, request.model_version)
            metrics = served.metrics
            if self._tracing.active:
                trace = self._tracing.begin(served.name, served.version, request.id)
            wish = read_wish(request, served, self._shared_memory) if request.outputs else PLAIN
            rows = read_rows(request, served.input_spec, self._shared_memory)
            if trace is not None:
                trace.mark("QUEUE_START")
            terms = read_terms(request, context, served.policy, served.wanted.label)
            scores = await served.infer(rows, *terms)
            if trace is not None:
                trace.mark("COMPUTE_END")
            response = self._respond(request, served, scores, wish)
        except asyncio.CancelledError:
            metrics.failed("DEADLINE_EXCEEDED" if _has_passed(terms.deadline) else "CANCELLED")
            raise
        except Exception as error:
            metrics.failed(code_of(error).name, time.perf_counter() - began)
            raise
        finally:
            if trace is not None:
                trace.end()
        metrics.answered(len(scores), time.perf_counter() - began)
        return response

    def _respond(
        self, request: messages.ModelInferRequest, served: ServedVersion, scores: Scores, wish: Wish
    ) -> messages.ModelInferResponse:
        """The reply: raw FP32 scores [rows, classes], or BYTES [rows, best] of "score:index:label"."""
        response = messages.ModelInferResponse(model_name=served.name, model_version=served.version, id=request.id)
        output = response.outputs.add(name=served.output.name)
        if wish.best:
            packed, count = classify(scores, wish.best, served.manifest.classes)
            output.datatype = "BYTES"
            output.shape.extend((len(scores), count))
        else:
            packed = scores.tobytes()
            output.datatype = "FP32"
            output.shape.extend(scores.shape)
        if wish.span is not None:
            self._shared_memory.write(wish.span, packed, f"output {served.output.name!r}")
            note_span(output.parameters, wish.span)
            packed = b""  # raw contents stay aligned with the outputs
        response.raw_output_contents.append(packed)
        return response


def _has_passed(deadline: float | None) -> bool:
    return deadline is not None and deadline <= asyncio.get_running_loop().time()


class Wish(NamedTuple):
    """What a request wants of the output."""

    best: int = 0
    """Classes for each row; 0: the scores themselves."""
    span: Span | None = None
    """The shared memory to write it to; None: the reply."""


PLAIN = Wish()


def read_wish(request: messages.ModelInferRequest, served: ServedVersion, shared_memory: SharedMemory) -> Wish:
    """What a request that names outputs wants. Raises InvalidInputError, NotFoundError."""
    name, model = served.output.name, served.wanted.label
    wanted = request.outputs[0]
    if len(request.outputs) > 1 or wanted.name != name:
        names = ", ".join(shown(output.name) for output in request.outputs[:3])
        problem = f"model {model}: got {len(request.outputs)} ({names}); the model has one output, {name!r}"
        raise InvalidInputError([FieldViolation("outputs", problem)])
    span = None
    if REGION in wanted.parameters:
        span = span_of(wanted.parameters, model, f"outputs[{name!r}]")
        shared_memory.check(span)  # before the work, not after it
    if "classification" not in wanted.parameters:
        return Wish(0, span)
    count = wanted.parameters["classification"]
    if count.WhichOneof("parameter_choice") != "int64_param" or count.int64_param < 1:
        field = f"outputs[{name!r}].parameters[classification]"
        problem = f"model {model}: expected int64_param of at least 1: how many classes"
        raise InvalidInputError([FieldViolation(field, problem)])
    return Wish(count.int64_param, span)
