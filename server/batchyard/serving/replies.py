"""Replies that carry raw FP32 scores, put together from bytes: what differs between two of them is little.

A message's encoding is that of its fields, in any order, one after the other (protobuf's encoding guide); so all but
the scores and the request's id is encoded once for each number of rows. Takes 0.2 us, not the 3 us of a message.
"""

from __future__ import annotations

from batchyard.oip import messages
from batchyard.serving.request_queue import Scores

MOST_HEADS = 1024
"""Numbers of rows whose encoding is kept."""


class PlainReplies:
    """Makes the replies of one version."""

    def __init__(self, model: str, version: str, output: str) -> None:
        """`output`: the name of the tensor."""
        self._model, self._version, self._output = model, version, output
        self._heads: dict[int, bytes] = {}
        """Rows -> a ModelInferResponse with everything but the id, up to the scores themselves, which come last."""

    def encode(self, scores: Scores, request_id: str) -> bytes:
        """A ModelInferResponse of scores [rows, classes]."""
        head = self._heads.get(len(scores)) or self._make_head(scores)
        if request_id:
            head = messages.ModelInferResponse(id=request_id).SerializeToString() + head
        return head + scores.tobytes()

    def _make_head(self, scores: Scores) -> bytes:
        response = messages.ModelInferResponse(model_name=self._model, model_version=self._version)
        response.outputs.add(name=self._output, datatype="FP32", shape=scores.shape)
        last = messages.ModelInferResponse(raw_output_contents=[scores.tobytes()]).SerializeToString()
        head = bytes(response.SerializeToString() + last[: -scores.nbytes])
        if len(self._heads) >= MOST_HEADS:
            self._heads.clear()
        self._heads[len(scores)] = head
        return head
