"""An explanation to its message. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable

from batchyard.cluster.executor import Capacity
from batchyard.control import names
from batchyard.control.admission import Place, Queue
from batchyard.control.explanation import Explanation, Waiting
from batchyard.control.quotas import NO_QUOTA
from batchyard.control.records import AttemptSummary
from batchyard.control.rpc.convert import failure, timestamp, training_job
from batchyard.v1 import queue_pb2
from batchyard.v1 import training_pb2 as pb

MOST_AHEAD = 100
"""Jobs ahead that one message tells of."""


def explanation(given: Explanation) -> pb.TrainingJobExplanation:
    """Why a job is where it is."""
    return pb.TrainingJobExplanation(
        name=names.job(given.job.id),
        state=pb.TrainingJob.State.Value(given.job.state),
        summary=given.summary,
        next_step=given.next_step,
        queueing=_queueing(given.waiting) if given.waiting else None,
        attempts=[_attempt(each) for each in given.attempts],
        checkpoint=pb.Checkpointed(**vars(given.checkpoint)) if given.checkpoint else None,
        failure=failure(given.job.failure) if given.job.failure else None,
    )


def training_queue(queue: Queue, waiting: Iterable[Explanation]) -> queue_pb2.TrainingQueue:
    """The whole queue, with the first of its jobs."""
    return queue_pb2.TrainingQueue(
        waiting=[_waiting_job(each) for each in waiting],
        length=len(queue.places),
        cluster=_resources(queue.capacity) if queue.capacity and queue.places else None,
        used=_resources(queue.used),
        running=[names.job(job) for job in queue.running],
    )


def _waiting_job(given: Explanation) -> queue_pb2.TrainingQueue.WaitingJob:
    message = explanation(given)
    message.queueing.ClearField("ahead")
    message.queueing.ClearField("running")
    return queue_pb2.TrainingQueue.WaitingJob(job=training_job(given.job), explanation=message)


def _queueing(given: Waiting) -> pb.Queueing:
    own = given.place
    return pb.Queueing(
        verdict=pb.Queueing.Verdict.Value(own.verdict),
        position=given.position,
        priority=own.job.priority,
        needs=_needs(own),
        fits=own.fits,
        cluster=_resources(given.capacity) if given.capacity else None,
        used=_resources(given.used),
        running=[names.job(job) for job in given.running],
        ahead=[_place(each) for each in given.ahead[-MOST_AHEAD:]],
        retry_time=timestamp(given.retry_time),
        share=_share(given) if given.quota != NO_QUOTA else None,
        giving_way=[names.job(job) for job in given.giving_way],
    )


def _share(given: Waiting) -> pb.Queueing.UserShare:
    has, quota = given.share, given.quota
    return pb.Queueing.UserShare(
        user=given.place.job.user,
        jobs=has.jobs,
        used=pb.Queueing.Resources(workers=has.workers, gpus=has.gpus),
        most_jobs=quota.jobs,
        most_workers=quota.workers,
        most_gpus=quota.gpus,
    )


def _place(given: Place) -> pb.Queueing.Place:
    return pb.Queueing.Place(
        name=names.job(given.job.id),
        priority=given.job.priority,
        verdict=pb.Queueing.Verdict.Value(given.verdict),
        needs=_needs(given),
    )


def _needs(given: Place) -> pb.Queueing.Resources:
    return pb.Queueing.Resources(workers=given.job.workers, gpus=given.job.gpus)


def _resources(given: Capacity) -> pb.Queueing.Resources:
    return pb.Queueing.Resources(workers=given.workers, gpus=given.gpus)


def _attempt(given: AttemptSummary) -> pb.AttemptSummary:
    unspecified = pb.Failure.CLASS_UNSPECIFIED
    return pb.AttemptSummary(
        number=given.number,
        start_time=timestamp(given.start_time),
        end_time=timestamp(given.end_time),
        outcome=given.outcome or "",
        failure_class=pb.Failure.Class.Value(given.failure_class.upper()) if given.failure_class else unspecified,
        resumed_step=given.resumed_step,
        preempted_by=names.job(given.preempted_by) if given.preempted_by else "",
    )
