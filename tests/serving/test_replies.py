"""Replies put together from bytes are those that protobuf would make."""

from __future__ import annotations

import numpy as np
import pytest

from batchyard.oip import messages
from batchyard.serving import replies
from batchyard.serving.replies import PlainReplies
from batchyard.serving.request_queue import Scores


def reply_by_protobuf(scores: Scores, request_id: str) -> messages.ModelInferResponse:
    response = messages.ModelInferResponse(model_name="mnist", model_version="7", id=request_id)
    response.outputs.add(name="logits", datatype="FP32", shape=scores.shape)
    response.raw_output_contents.append(scores.tobytes())
    return response


@pytest.mark.parametrize("request_id", ["", "the id", "ä" * 200], ids=["none", "short", "long"])
@pytest.mark.parametrize("rows", [1, 3, 128, 4000])
def test_a_reply_is_the_message_that_protobuf_makes_first_and_again(rows: int, request_id: str) -> None:
    made = PlainReplies("mnist", "7", "logits")
    for seed in (1, 2):
        scores = np.random.default_rng(seed).standard_normal((rows, 10)).astype(np.float32)
        packed = made.encode(scores, request_id)
        assert messages.ModelInferResponse.FromString(packed) == reply_by_protobuf(scores, request_id)


def test_scores_that_are_a_part_of_a_batch_are_told_alone() -> None:
    batch = np.arange(30, dtype=np.float32).reshape(6, 5)
    packed = PlainReplies("mnist", "7", "logits").encode(batch[2:4], "")
    assert messages.ModelInferResponse.FromString(packed) == reply_by_protobuf(batch[2:4], "")


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "MOST_HEADS", 3)
    made = PlainReplies("mnist", "7", "logits")
    for rows in (1, 2, 3, 4, 5, 1):
        scores = np.ones((rows, 2), np.float32)
        assert messages.ModelInferResponse.FromString(made.encode(scores, "i")) == reply_by_protobuf(scores, "i")
    assert len(made._heads) <= 3
