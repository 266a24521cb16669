"""Can this machine run the service? Looks, and changes nothing but a file in the data folder that it removes again."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from batchyard.cli.doctor.finding import Finding, Patient, absent, bad, good, warning
from batchyard.cli.doctor.installation import version_of

GIB = 2**30
LEAST_DISK = 1 * GIB
"""Bytes; below it a data folder soon cannot take the next checkpoint."""
ENOUGH_DISK = 5 * GIB
LEAST_MEMORY = 1 * GIB
ENOUGH_MEMORY = 4 * GIB
"""Bytes: Ray's head takes 1, the fork server that workers come from 0.3, each worker with torch about 0.4."""
ENOUGH_SHARED_MEMORY = 256 * 2**20
"""Bytes: Docker gives 64 MiB where nothing is said, which Ray's object store fills at once."""
ENOUGH_FILES = 4096
"""Open files: each client connection and each worker takes some."""
_CLOCK_NOT_SYNCHRONISED = 5
"""TIME_ERROR of adjtimex(2)."""
_TIMEX_BYTES = 256
"""More than struct timex takes on any Linux."""
_NVIDIA_SMI_SECONDS = 10.0


def cores(_: Patient) -> Iterator[Finding]:
    """Processor cores that this process may use."""
    found = len(os.sched_getaffinity(0))
    yield good("cores", f"{found}, so `up` runs {found} workers at once unless --workers says otherwise")


def memory(_: Patient) -> Iterator[Finding]:
    """Memory that is free for processes to come."""
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free, total = (int(facts[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    yield _by_size("memory", f"{_gib(free)} of {_gib(total)} free", free, LEAST_MEMORY, ENOUGH_MEMORY, "Free some.")


def shared_memory(_: Patient) -> Iterator[Finding]:
    """/dev/shm, where Ray keeps objects and CPU workers add up gradients."""
    try:
        total = shutil.disk_usage("/dev/shm").total
    except OSError as error:
        yield bad("shared memory", f"/dev/shm: {error.strerror}", "Mount a tmpfs there; Ray needs one.")
        return
    if total < ENOUGH_SHARED_MEMORY:
        yield warning("shared memory", f"/dev/shm has {_gib(total)}", "In Docker: --shm-size=1g.")
    else:
        yield good("shared memory", f"/dev/shm has {_gib(total)}")


def disk(patient: Patient) -> Iterator[Finding]:
    """The disk that holds the data folder."""
    free = shutil.disk_usage(nearest(patient.data_dir)).free
    advice = "Free some, or name another folder with --data-dir."
    yield _by_size("disk", f"{_gib(free)} free for {patient.data_dir}", free, LEAST_DISK, ENOUGH_DISK, advice)


def data_folder(patient: Patient) -> Iterator[Finding]:
    """Whether the service can write where its data goes."""
    folder = nearest(patient.data_dir)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        advice = "Make it writable, or name another folder with --data-dir."
        yield bad("data folder", f"{folder}: {error.strerror}", advice)
        return
    there = folder == patient.data_dir.absolute()
    yield good("data folder", f"{patient.data_dir}" if there else f"{patient.data_dir}: new")


def open_files(_: Patient) -> Iterator[Finding]:
    """How many files a process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < ENOUGH_FILES:
        yield warning("open files", f"at most {soft} a process", f"ulimit -n {min(hard, 65536)}")
    else:
        yield good("open files", "no limit" if soft == resource.RLIM_INFINITY else f"at most {soft:,} a process")


def clock(_: Patient) -> Iterator[Finding]:
    """Whether something keeps the clock right: tokens, certificates and the times of events rest on it."""
    libc = ctypes.CDLL(None, use_errno=True)
    state = libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))  # all zero: asks, and sets nothing
    if state < 0:
        yield absent("clock", f"cannot be asked: {os.strerror(ctypes.get_errno())}")
    elif state == _CLOCK_NOT_SYNCHRONISED:
        advice = "Run chrony or systemd-timesyncd; durations are right all the same."
        yield warning("clock", "not synchronised with any time server", advice)
    else:
        yield good("clock", "synchronised")


def gpus(_: Patient) -> Iterator[Finding]:
    """NVIDIA GPUs, and whether the installed torch can use them."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    if shutil.which(query[0]) is None:
        yield absent("GPUs", "none: no nvidia-smi here; training and serving use the CPU")
        return
    try:
        asked = subprocess.run(query, capture_output=True, text=True, timeout=_NVIDIA_SMI_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        yield warning("GPUs", f"nvidia-smi fails: {error}", "Look at the driver; jobs with gpus_per_worker would wait.")
        return
    torch = version_of("torch") or ""
    for line in asked.stdout.splitlines():
        if torch.endswith("+cpu"):
            yield warning("GPUs", f"{line}, but torch {torch} is a CPU build", "Install torch's CUDA build to use it.")
        else:
            yield good("GPUs", line)


def nearest(folder: Path) -> Path:
    """`folder`, or the nearest folder above it that exists."""
    folder = folder.absolute()
    return next(each for each in (folder, *folder.parents) if each.exists())


def _by_size(what: str, found: str, size: int, least: int, enough: int, advice: str) -> Finding:
    if size < least:
        return bad(what, found, f"{advice} At least {_gib(least)} is needed.")
    return warning(what, found, f"{advice} {_gib(enough)} is comfortable.") if size < enough else good(what, found)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
