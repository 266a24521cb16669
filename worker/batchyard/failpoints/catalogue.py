"""Every failpoint: where it is, and what has happened when it is reached. A test holds this against the code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Point:
    """One failpoint."""

    places: tuple[str, ...]
    """module:function, without the leading batchyard; two where there are two ways to do the same."""
    says: str
    """What is done, and what is not."""


CONTROL: Mapping[str, Mapping[str, str]] = {
    "control.jobs:_create": {"create.before_commit": "a job is in a transaction that is not committed"},
    "control.jobs:Jobs.create": {"create.after_commit": "a job is stored, and its caller does not know"},
    "control.jobs:_ask": {"request.before_commit": "a cancel, pause or resume is in an open transaction"},
    "control.jobs:Jobs._request": {"request.after_commit": "it is stored, and its caller does not know"},
    "control.scheduler:Scheduler._admit": {"admission.before_begin": "a job may start; nothing is written"},
    "control.attempts:Attempts._begin": {"begin.before_commit": "an attempt's row is in an open transaction"},
    "control.attempts:Attempts.begin": {"begin.after_commit": "the attempt is stored; nobody follows it"},
    "control.follower:Follower._start": {
        "start.before_executor": "an attempt is stored; the executor does not know it",
        "start.after_executor": "the executor has it; nothing of that is stored",
    },
    "control.follower:Follower._pass_on": {
        "pass_on.before_executor": "a pause or cancel is stored; the executor does not know",
        "pass_on.after_executor": "the executor has been told",
    },
    "control.follower:Follower._record": {"record.before_transaction": "events are read from the executor"},
    "control.attempts:Attempts._record": {
        "record.before_commit": "events are in an open transaction",
        "end.before_commit": "the end of an attempt is in an open transaction",
    },
    "control.attempts:Attempts.record": {"record.after_commit": "events and the cursor are stored"},
    "control.attempts:_end": {
        "registry.before_row": "the artifact is whole and inspected; it is no version yet",
        "registry.after_row": "its version is in an open transaction; the alias is not moved",
    },
    "control.attempts:Attempts.fail.write": {
        "fail.before_commit": "a failure found by the service is in a transaction"
    },
    "control.attempts:Attempts.fail": {"fail.after_commit": "that failure is stored"},
    "control.attempts:Attempts.interrupt.write": {
        "interrupt.before_commit": "a stop without a word is in a transaction"
    },
    "control.attempts:Attempts.interrupt": {"interrupt.after_commit": "that stop is stored"},
    "control.follower:Follower._release": {
        "release.before_executor": "the end of an attempt is stored; the executor still holds it",
        "release.after_executor": "the executor has forgotten it",
    },
    "control.ledger:Ledger._write": {"ledger.before_tell": "a commit is done; nobody in the process knows"},
    "control.rpc.training:TrainingServicer.WatchTrainingJob": {
        "stream.before_send": "an event is read for a watcher and not sent",
        "stream.after_send": "an event is handed to the transport",
    },
    "control.registry:_set_alias": {"alias.before_commit": "an alias is moved in an open transaction"},
    "control.registry:Registry.set_alias": {"alias.after_commit": "that is stored; its caller does not know"},
    "control.retention:Retention._sweep": {
        "retention.before_files": "rows of checkpoints are gone, their files are not",
        "retention.after_files": "both are",
    },
    "control.scheduler:Scheduler.start": {"reattach.before_follow": "what ran is read; nobody follows it"},
    "control.app:ControlPlane.start": {"announce.before_file": "all is up; control.json does not say so"},
}
"""In the control plane's process, what it calls of an executor aside."""

CLUSTER: Mapping[str, Mapping[str, str]] = {
    "cluster.attempts:AttemptFolders._make": {
        "attempt.before_rename": "an attempt's folder is whole under a temporary name",
        "attempt.after_rename": "it has its name; no supervisor is started",
    },
    "cluster.local:LocalExecutor._launch": {
        "supervisor.before_spawn": "no supervisor runs",
        "supervisor.before_note": "it runs; supervisor.json does not name it",
    },
    "cluster.attempts:AttemptFolder.bury": {"burial.before_kill": "an attempt without supervisor is found"},
    "cluster.local_supervisor:supervise": {"supervisor.before_crew": "the supervisor runs; no worker does"},
    "cluster.event_log:EventLog.append_json": {
        "event.before_append": "an event has reached the supervisor, and not its file",
        "event.after_append": "an event is in the file",
    },
    "cluster.supervision:Supervision.run": {
        "ended.before_append": "no worker is left; the file does not say that the attempt has ended",
        "ended.after_append": "it does; the supervisor still runs",
    },
    "cluster.worker_main:Worker.run": {"worker.before_result": "the training entry has returned"},
}
"""In the control plane, the supervisor and the worker: how attempts are run on plain processes, and largely on Ray."""

TRAINING: Mapping[str, Mapping[str, str]] = {
    "training.checkpoint_writer:Writer._write": {
        "checkpoint.before_write": "a state is copied; nothing of it is on disk",
        "checkpoint.after_write": "the checkpoint is durable; nobody knows",
        "checkpoint.after_report": "it is reported; nobody may have stored that",
    },
    "training.checkpoint:CheckpointFolder._remove": {"checkpoint.in_removal": "its manifest is gone, it is not"},
    "training.checkpointing:Checkpoints._chosen": {
        "resume.before_sweep": "a checkpoint is read; what lies beyond it is still there",
        "resume.before_report": "that is removed; Resumed is not reported",
    },
    "artifact.writer:_write_local": {
        "folder.before_file": "a temporary folder lacks a file",
        "folder.before_manifest": "a temporary folder lacks its last file, the manifest, alone",
        "folder.before_rename": "it is whole and synced",
        "folder.after_rename": "it has its name; the folder around it is not synced",
    },
    "artifact.writer:_write_synced": {"folder.before_fsync": "a file is written and not synced"},
    "training.packaging:package": {
        "publish.before_fold": "training is done; nothing is folded",
        "publish.after_fold": "folded and certified; nothing is exported",
        "publish.before_artifact": "the graph is exported; nothing is on disk",
    },
    "training.publish:publish": {"publish.before_report": "the artifact is durable; nobody knows"},
}
"""In the workers. The folder's are reached by checkpoints and by artifacts."""


def _by_name(*parts: Mapping[str, Mapping[str, str]]) -> dict[str, Point]:
    found: dict[str, Point] = {}
    for place, points in ((place, points) for part in parts for place, points in part.items()):
        for name, says in points.items():
            before = found[name].places if name in found else ()
            found[name] = Point(places=(*before, place), says=says)
    return found


CATALOGUE: Mapping[str, Point] = _by_name(CONTROL, CLUSTER, TRAINING)
