"""ModelInfer: convert, one call, convert back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from batchyard.endpoint.errors import DomainError, FieldViolation, InvalidInputError
from batchyard.endpoint.status import code_of
from batchyard.oip import SERVICE_NAME, messages
from batchyard.serving.answers import Ticket, settle
from batchyard.serving.front import Method
from batchyard.serving.metrics import Metrics
from batchyard.serving.model import ServedVersion
from batchyard.serving.repository import Repository
from batchyard.serving.request_bytes import Head, Received, Receiver, read_addressee
from batchyard.serving.request_queue import Scores
from batchyard.serving.request_terms import NO_TERMS, read_terms
from batchyard.serving.shared_memory import REGION, SharedMemory, Span, note_span, span_of
from batchyard.serving.telemetry import Metadata, Subject
from batchyard.serving.tensors import classify, read_rows, shown
from batchyard.serving.tracing import AnyTrace, Tracing

Outputs = Sequence[messages.ModelInferRequest.InferRequestedOutputTensor]
Done = Callable[[bytes | Exception], None]
"""Takes the encoded reply, or a domain error or whatever else there is in its place."""


class Inference:
    """ModelInfer over a repository."""

    def __init__(self, repository: Repository, metrics: Metrics, shared_memory: SharedMemory, tracing: Tracing) -> None:
        self.repository = repository
        self.metrics = metrics
        self.shared_memory = shared_memory
        self.tracing = tracing

    def begin(self, received: Received, seconds: float | None, metadata: Metadata, done: Done) -> Call:
        """Begins one inference that has so many seconds, None: any. `done` is called once, perhaps at once."""
        call = Call(self, received, done)
        call.begin(seconds, metadata)
        return call

    @property
    def as_method(self) -> Method:
        """For a transport that has no coroutine for each call."""
        path = f"/{SERVICE_NAME}/ModelInfer"
        return Method(path, Receiver().receive, self.begin, self.refusal, self.repository.in_order)

    def refusal(self, packed: bytes) -> Exception | None:
        """What a request can be told unread because its model's queue is full; None: it has to be read."""
        addressee = None if self.tracing.active else read_addressee(packed)
        if addressee is None:
            return None
        try:
            served = self.repository.resolve(*addressee)
        except DomainError:
            return None
        refusal = served.batcher.refusal
        if refusal is not None:
            served.metrics.failed(code_of(refusal).name)
        return refusal

    async def ModelInfer(self, request: messages.ModelInferRequest, context: Any) -> messages.ModelInferResponse:
        """One inference. Raises the domain errors of reading, batching and resolving."""
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        metadata = context.invocation_metadata() or () if self.tracing.active else ()
        call = self.begin(Received(Head(request)), context.time_remaining(), metadata, partial(settle, reply))
        try:
            return messages.ModelInferResponse.FromString(await reply)
        except asyncio.CancelledError:
            call.cancel()
            raise


class Call:
    """One inference, from its request to its reply. Nothing of it waits: it begins, and it is called back."""

    __slots__ = (
        "_began",
        "_done",
        "_inference",
        "_metrics",
        "_received",
        "_served",
        "_terms",
        "_ticket",
        "_trace",
        "_wish",
    )

    def __init__(self, inference: Inference, received: Received, done: Done) -> None:
        self._began = time.perf_counter()
        self._inference = inference
        self._received = received
        self._done = done
        self._metrics = inference.metrics.unknown
        self._served: ServedVersion
        self._terms = NO_TERMS
        self._ticket: Ticket | None = None
        """None: it is not in the batcher's hands."""
        self._trace: AnyTrace | None = None
        self._wish = PLAIN

    def begin(self, seconds: float | None, metadata: Metadata) -> None:
        """Reads the request and hands it to the batcher."""
        head, inference = self._received.head, self._inference
        try:
            served = self._served = inference.repository.resolve(head.model_name, head.model_version)
            self._metrics = served.metrics
            if inference.tracing.active:
                self._trace = inference.tracing.begin(Subject(served.name, served.version, head.id), metadata)
            if head.outputs:
                self._wish = read_wish(head.outputs, served, inference.shared_memory)
            rows = read_rows(self._received, served.input_spec, inference.shared_memory)
            if self._trace is not None:
                self._trace.mark("QUEUE_START")
            self._terms = read_terms(head.parameters, seconds, served.policy, served.wanted.label)
            self._ticket = served.post(rows, self._answered, *self._terms)
        except Exception as error:
            self._fail(error)

    def cancel(self) -> None:
        """The caller has left. Does nothing once it is answered."""
        if self._ticket is None:
            return
        self._served.batcher.withdraw(self._ticket)
        self._ticket = None
        code = "DEADLINE_EXCEEDED" if _has_passed(self._terms.deadline) else "CANCELLED"
        self._metrics.failed(code)
        self._end_trace(code)

    def _answered(self, outcome: Scores | Exception) -> None:
        self._ticket = None
        if isinstance(outcome, Exception):
            self._fail(outcome)
            return
        try:
            if self._trace is not None:
                self._trace.computed(*self._served.batcher.last_run)
            if self._wish is PLAIN:
                reply = self._served.plain_replies.encode(outcome, self._received.head.id)
            else:
                reply = self._wished(outcome).SerializeToString()
        except Exception as error:
            self._fail(error)
            return
        if self._trace is not None:
            self._trace.end()
        self._metrics.answered(len(outcome), time.perf_counter() - self._began)
        self._done(reply)

    def _fail(self, error: Exception) -> None:
        code = code_of(error).name
        self._metrics.failed(code, time.perf_counter() - self._began)
        self._end_trace(code)
        self._done(error)

    def _end_trace(self, error: str) -> None:
        if self._trace is not None:
            self._trace.end(error)

    def _wished(self, scores: Scores) -> messages.ModelInferResponse:
        """The reply that was wished for: FP32 [rows, classes], or BYTES [rows, best] of "score:index:label"."""
        served, wish = self._served, self._wish
        response = messages.ModelInferResponse(
            model_name=served.name, model_version=served.version, id=self._received.head.id
        )
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
            self._inference.shared_memory.write(wish.span, packed, f"output {served.output.name!r}")
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


def read_wish(outputs: Outputs, served: ServedVersion, shared_memory: SharedMemory) -> Wish:
    """What a request that names outputs wants. Raises InvalidInputError, NotFoundError."""
    name, model = served.output.name, served.wanted.label
    wanted = outputs[0]
    if len(outputs) > 1 or wanted.name != name:
        names = ", ".join(shown(output.name) for output in outputs[:3])
        problem = f"model {model}: got {len(outputs)} ({names}); the model has one output, {name!r}"
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
