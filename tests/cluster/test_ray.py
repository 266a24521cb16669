"""Ray itself: what breaks, what listens, and what stays when we go."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from batchyard.cluster.forked_worker import FORKED
from batchyard.cluster.processes import PROC, ProcessId, marked
from batchyard.cluster.ray_link import MARK
from batchyard.cluster.ray_settings import LONGEST_FOLDER, environment, temporary_folder
from batchyard.control.process_watch import command_of
from tests.cluster.entries import listening
from tests.cluster.harness import WORKERS, Bench, Run, eventually, ray_bench

pytestmark = pytest.mark.ray


def record(bench: Bench) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bench.folder / "ray" / "driver.json").read_text())
    return found


def named(bench: Bench, name: str) -> list[int]:
    """Processes of this head by the kernel's name for them."""
    return [pid for pid in bench.processes() if (PROC / str(pid) / "comm").read_text().strip() == name]


def sockets(pid: int) -> set[str]:
    return {str(fd.readlink()) for fd in (PROC / str(pid) / "fd").iterdir()}


def addresses(pids: list[int]) -> set[tuple[str, int]]:
    """What these processes listen on."""
    held = set().union(*map(sockets, pids))
    return {(address, port) for inode, address, port in listening() if f"socket:[{inode}]" in held}


def test_a_head_that_loses_a_part_ends_with_all_its_workers_and_the_next_attempt_starts_another(
    own_ray: Bench, shared_ray: Bench
) -> None:
    other = shared_ray.start("until_stopped", grace_s=30.0)
    for part, cause in (("python", "the Ray head is gone"), ("raylet", "a process of the Ray head has died")):
        run = own_ray.start("stuck")
        pids = [*run.pids(), int(run.note("child-0")), *own_ray.processes()]
        driver = record(own_ray)["process"]["pid"]
        assert len(pids) > 8
        began = time.monotonic()
        os.kill(driver if part == "python" else named(own_ray, part)[0], signal.SIGKILL)
        ended = run.ended()
        assert time.monotonic() - began < 5.0
        assert (ended.outcome, ended.failure_class) == ("failed", "infrastructure")
        assert ended.cause is not None
        assert cause in ended.cause
        assert [pid for pid in pids if ProcessId.of(pid)] == []
    # Somebody else's head on the same machine has noticed nothing.
    other.executor.cancel(other.attempt.id)
    assert other.ended().outcome == "cancelled"


def test_ray_listens_on_the_loopback_interface_only(shared_ray: Bench) -> None:
    run = shared_ray.start("until_stopped")
    run.pids()
    found = addresses(shared_ray.processes())
    assert len(found) >= 5
    assert {address for address, _ in found} <= {"127.0.0.1", "::ffff:7f00:1"}
    run.executor.cancel(run.attempt.id)
    assert run.ended().outcome == "cancelled"


def ask_head(port: int, token: str | None) -> grpc.StatusCode:
    """Asks the head who its nodes are."""
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        nodes = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo", bytes, bytes)
        try:
            nodes(b"", metadata=metadata, timeout=10)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def test_the_head_answers_nobody_without_the_token_and_only_its_owner_can_read_that(shared_ray: Bench) -> None:
    shared_ray.start("succeed").events()
    (port,) = {port for _, port in addresses(named(shared_ray, "gcs_server"))}
    token = shared_ray.folder / "ray" / "token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(record(shared_ray)["temporary"]).stat().st_mode) == 0o700
    assert ask_head(port, token.read_text()) == grpc.StatusCode.OK
    assert ask_head(port, None) == grpc.StatusCode.UNAUTHENTICATED
    assert ask_head(port, "0" * 64) == grpc.StatusCode.UNAUTHENTICATED


def test_a_lost_worker_actor_ends_the_attempt_as_infrastructure(shared_ray: Bench) -> None:
    run = shared_ray.start("stuck")
    pids = run.pids()
    host = int((PROC / str(pids[1]) / "stat").read_text().rpartition(")")[2].split()[1])
    began = time.monotonic()
    os.kill(host, signal.SIGKILL)
    ended = run.ended()
    assert time.monotonic() - began < 5.0
    assert ended.failure_class == "infrastructure"
    assert ended.cause is not None
    assert ended.cause.startswith("worker 1 of 2 was lost: its Ray actor died")
    assert not any(ProcessId.of(pid) for pid in pids)


def test_an_attempt_waits_for_room_and_can_be_cancelled_meanwhile(shared_ray: Bench) -> None:
    first = shared_ray.start("until_stopped", workers=WORKERS, grace_s=30.0)
    first.pids(WORKERS)
    impatient = shared_ray.start("until_stopped", workers=1, grace_s=30.0)
    patient = shared_ray.start("succeed", workers=1)
    impatient.executor.cancel(impatient.attempt.id)
    assert impatient.ended().outcome == "cancelled"
    assert patient.executor.poll(patient.attempt.id, 0).events == ()
    first.executor.cancel(first.attempt.id)
    assert first.ended().outcome == "cancelled"
    assert patient.ended().outcome == "succeeded"


CLUSTER = """
import sys
from ray.cluster_utils import Cluster
node = {"num_cpus": 1, "object_store_memory": 78 << 20}
cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
cluster.add_node(**node)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
STATE = """
import json, ray, sys
ray.init(address=sys.argv[1], log_to_driver=False)
groups = [group["state"] for group in ray.util.placement_group_table().values()]
print(json.dumps({"actors": ray.util.list_named_actors(all_namespaces=True), "groups": groups}))
"""


@pytest.fixture
def existing(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The address of a cluster of two nodes with one CPU each, which is not ours."""
    token = tmp_path / "their-token"
    token.write_text("7" * 64)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    files = temporary_folder(tmp_path / "a-path-that-is-too-long-for-a-socket")
    monkeypatch.setenv("RAY_TMPDIR", str(files))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with (tmp_path / "cluster.log").open("w") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        with keeper:
            assert keeper.stdout is not None
            yield keeper.stdout.readline().strip()
            assert keeper.poll() is None
    shutil.rmtree(files)


def forks(folder: Path) -> list[int]:
    """Fork servers of the cluster whose TMPDIR this is, and what they have forked."""
    commands = {process.pid: command_of(process.pid) for process in marked("TMPDIR", str(folder))}
    return [pid for pid, words in commands.items() if {"batchyard.cluster.fork_server", FORKED} & set(words)]


def test_an_existing_cluster_is_used_found_again_and_left_as_it_was(existing: str, tmp_path: Path) -> None:
    bench = ray_bench(tmp_path / "executor", tmp_path / "notes", existing, warm=True)
    assert bench.executor("succeed").capacity().workers == 2
    together = bench.start("sum_over_gloo")
    assert together.ended().outcome == "succeeded", together.log()

    run = bench.start("until_stopped", grace_s=30.0)
    pids = run.pids()
    assert set(pids) <= set(forks(tmp_path)), run.executor.poll(run.attempt.id, 0).events
    driver = ProcessId(**record(bench)["process"])
    driver.send(signal.SIGKILL)
    assert driver.await_end(10.0)
    later = Run(bench, bench.executor("succeed"), run.attempt)
    assert later.executor.poll(run.attempt.id, 0).events == ()
    assert all(ProcessId.of(pid) for pid in pids)
    eventually(bench.processes, "another driver is started")
    later.executor.cancel(run.attempt.id)
    assert later.ended().outcome == "cancelled"
    assert not any(ProcessId.of(pid) for pid in pids)

    too_big = bench.start("succeed", workers=3).ended()
    assert too_big.failure_class == "user"
    assert too_big.cause == "workers.count: 3 given; the Ray cluster has room for 2 (one CPU each)"

    mark = record(bench)["mark"]
    left = bench.start("until_stopped", grace_s=30.0)
    left.pids()
    later.executor.close()
    assert left.ended().outcome == "cancelled"
    assert marked(MARK, mark) == []
    eventually(lambda: not forks(tmp_path), "no fork server is left")
    state = subprocess.run([sys.executable, "-c", STATE, existing], capture_output=True, text=True, check=True).stdout
    assert json.loads(state) == {"actors": [], "groups": ["REMOVED"] * 3}


def test_a_cluster_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    bench = ray_bench(tmp_path / "executor", tmp_path / "notes", "127.0.0.1:1")
    ended = bench.start("succeed").ended()
    assert ended.failure_class == "infrastructure"
    assert ended.cause is not None
    assert ended.cause.startswith("the connection to Ray at 127.0.0.1:1 is gone")
    bench.executor("succeed").close()


def test_socket_paths_stay_short_however_long_the_folder_is(tmp_path: Path) -> None:
    long = temporary_folder(tmp_path / "a-path-that-is-too-long-for-a-socket")
    assert len(str(long)) <= LONGEST_FOLDER
    assert stat.S_IMODE(long.stat().st_mode) == 0o700
    long.rmdir()
    short = temporary_folder(long)
    assert short == long / "t"
    short.rmdir()
    long.rmdir()


def test_a_head_of_ours_ignores_the_users_ray_settings_but_an_existing_cluster_gets_them(tmp_path: Path) -> None:
    user = {"RAY_ADDRESS": "elsewhere:6379", "RAY_AUTH_TOKEN_PATH": "theirs", "HOME": "home"}
    ours = environment(user, tmp_path, own_head=True)
    assert "RAY_ADDRESS" not in ours
    assert (ours["RAY_AUTH_MODE"], ours["RAY_AUTH_TOKEN_PATH"]) == ("token", str(tmp_path / "token"))
    assert ours["HOME"] == "home"
    theirs = environment(user, tmp_path, own_head=False)
    assert theirs["RAY_AUTH_TOKEN_PATH"] == "theirs"
