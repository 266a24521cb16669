"""up, down, status: the service on this machine."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchyard.cli.failures import Failure
from batchyard.cli.options import Connection, as_json, connects, examples
from batchyard.cli.output import for_people, print_facts, print_json

if TYPE_CHECKING:
    from batchyard.cli.local import Running
    from batchyard.client import Client, UnavailableError

_data_dir = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("batchyard-data"),
    show_default=True,
    help="Where the service keeps its database, models and logs.",
)

# Flag of `up` -> (placeholder, help). All are handed to the service as they are; it knows their defaults.
_ADDRESSES = {
    "grpc": "Control plane, gRPC [127.0.0.1:50051].",
    "http": "Dashboard and metrics [127.0.0.1:8080].",
    "inference-grpc": "Inference, gRPC [127.0.0.1:8001].",
    "inference-http": "Inference metrics [127.0.0.1:8002].",
    "ray-address": "Use this Ray cluster instead of one of its own.",
}
_FILES = {"tls-cert": "PEM certificate.", "tls-key": "Its key.", "token-file": "Bearer token that clients must send."}


def _service_flags(command: Any) -> Any:
    flags = [click.option(f"--{n}", metavar="HOST:PORT", help=text) for n, text in _ADDRESSES.items()]
    flags += [
        click.option(
            "--shift-sample-rate",
            type=click.FloatRange(0, 1),
            help="Share of the requests that covariate shift is measured on; 0: none [0.01].",
        ),
        click.option("--engines", metavar="NAME,...", help="Engines that may serve [all that are installed]."),
        click.option(
            "--shared-memory",
            metavar="PATTERN",
            help="Keys in /dev/shm that inference clients may register, such as 'client-*' [none].",
        ),
        click.option(
            "--model-control",
            type=click.Choice(["none", "explicit"]),
            help="explicit: inference clients may load and unload models [none].",
        ),
        click.option(
            "--trace-dir",
            type=click.Path(file_okay=False),
            help="Where inference clients may have traces written [nowhere].",
        ),
        click.option("--otlp-endpoint", metavar="URL", help="OpenTelemetry collector for spans of inferences [none]."),
        click.option(
            "--otlp-sample-rate", type=click.FloatRange(0, 1), help="Share of the inferences that become spans [0.01]."
        ),
        click.option(
            "--triton-error-codes", is_flag=True, help="UNAVAILABLE for a full inference queue, as Triton says."
        ),
        click.option("--database-url", metavar="URL", help="postgresql://[USER@]HOST[:PORT]/NAME [an SQLite file]."),
        click.option(
            "--artifacts", metavar="URI", help="Where published models go, s3://BUCKET/FOLDER [the data folder]."
        ),
        click.option(
            "--checkpoints", metavar="URI", help="Where checkpoints go, s3://BUCKET/FOLDER [the data folder]."
        ),
        click.option("--executor", type=click.Choice(["ray", "local"]), help="What runs the workers [ray]."),
        click.option("--workers", type=click.IntRange(1), help="Workers that may run at once [the CPU cores]."),
        click.option("--user-jobs", type=click.IntRange(1), help="Jobs of one user that may run at once [any number]."),
        click.option("--user-workers", type=click.IntRange(1), help="Workers of one user at once [any number]."),
        click.option("--user-gpus", type=click.IntRange(0), help="GPUs of one user at once [any number]."),
        click.option(
            "--no-warm-workers", is_flag=True, help="Load torch anew for each worker: 0.3 GiB less, 2 s more a job."
        ),
        click.option("--datasets", multiple=True, type=click.Path(), help="A folder with data sets; may be repeated."),
        click.option(
            "--allow-python",
            multiple=True,
            metavar="PACKAGE",
            help="A package whose code jobs may name as their network; may be repeated [none].",
        ),
    ]
    flags += [click.option(f"--{n}", type=click.Path(dir_okay=False), help=text) for n, text in _FILES.items()]
    flags.append(click.option("--insecure", is_flag=True, help="Allow addresses beyond this machine without TLS."))
    for flag in reversed(flags):
        command = flag(command)
    return command


@click.command(
    epilog=examples(
        "batchyard up",
        "batchyard up --data-dir /srv/batchyard --workers 8",
        "batchyard up --grpc 127.0.0.1:0 --http 127.0.0.1:0 --inference-grpc 127.0.0.1:0 --inference-http 127.0.0.1:0",
    )
)
@_data_dir
@click.option("--foreground", is_flag=True, help="Stay; Ctrl-C stops the service.")
@click.option("--standby", is_flag=True, help="Wait while another service has the data folder, then take over.")
@_service_flags
@as_json
def up(data_dir: Path, foreground: bool, standby: bool, as_json: bool, **flags: Any) -> None:
    """Start the service on this machine.

    Control plane, dashboard and inference; Ray starts with the first job. It goes on in the background until
    `batchyard down`. An address with port 0 gets a free port.
    """
    from batchyard.cli import local

    if not standby and (running := local.find(data_dir)):
        if _arguments(flags):
            click.echo("It keeps the flags that it was started with: to change them, `batchyard down` first.", err=True)
        return _print_running(running, data_dir, as_json, "is already running")
    # A terminated `up` must clean up like an interrupted one.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if standby:
            child = local.stand_by(_arguments(flags), data_dir, foreground=foreground)
            say = partial(_print_standby, child.pid, data_dir, as_json)
        else:
            running, child = local.start(_arguments(flags), data_dir, foreground=foreground)
            say = partial(_print_running, running, data_dir, as_json, "is up")
    except local.StartFailure as failure:
        click.echo(failure.log, err=True, nl=bool(failure.log))
        raise
    return _stay(child, say) if foreground else say()


def _stay(child: subprocess.Popen[bytes], say: Callable[[], None]) -> None:
    """Returns when the service has stopped. Raises Failure when it had not been asked to."""
    try:
        say()
        # With a timeout it looks again and again; a plain wait() sleeps on when a signal comes just before it begins.
        code = child.wait(timeout=threading.TIMEOUT_MAX)
    except KeyboardInterrupt:
        child.terminate()
        code = child.wait()
    if code:
        raise Failure(f"the service ended with exit code {code}", "Its last words are above.")


@click.command(epilog=examples("batchyard down", "batchyard down --data-dir /srv/batchyard"))
@_data_dir
@click.option("--force", is_flag=True, help="Kill what has not stopped in time.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds that it may take to stop.")
@as_json
def down(data_dir: Path, force: bool, timeout: float, as_json: bool) -> None:
    """Stop the service on this machine.

    Its workers and its Ray too. Data, jobs and models stay.
    """
    from batchyard.cli import local, processes

    running = local.find(data_dir)
    if running is None and (left := processes.naming(data_dir)):
        again = f" --data-dir {data_dir}" if _elsewhere(data_dir) else ""
        what = f"the service on {data_dir} has died, and what it had started runs on: {processes.named(left)}"
        raise Failure(what, f"Run `batchyard up{again}`, which takes it up, and then `batchyard down{again}`.")
    count = local.stop(running, data_dir, force=force, within=timeout) if running else 0
    if as_json:
        print_json({"stopped": running is not None, "processes": count})
    elif running:
        click.echo(f"Stopped; {count} {'process' if count == 1 else 'processes'} ended. Data stays in {data_dir}.")
    else:
        click.echo(f"No service runs on {data_dir}; nothing to stop.")


@click.command(epilog=examples("batchyard status", "batchyard status --json | jq .jobs"))
@as_json
@connects(inference=True)
def status(as_json: bool, connection: Connection) -> None:
    """What the service runs and serves.

    Exit code 3 when a plane does not answer.
    """
    with connection.open() as client:
        found, failures = _survey(client)
    if as_json:
        print_json(found)
    else:
        serving = found["control"]["state"] != "no answer"
        jobs = ", ".join(f"{count} {state.lower()}" for state, count in found["jobs"].items()) or "none"
        print_facts(
            [
                ("control plane", f"{found['control']['address']}  {found['control']['state']}"),
                ("inference plane", f"{found['inference']['address']}  {found['inference']['state']}"),
                ("jobs", jobs if serving else ""),
                ("models", (", ".join(found["models"]) or "none") if serving else ""),
            ]
        )
    if failures:
        raise failures[0]


def _survey(client: Client) -> tuple[dict[str, Any], list[UnavailableError]]:
    """What both planes say, and how those failed that do not answer."""
    from batchyard.client import UnavailableError, state_name

    failures: list[UnavailableError] = []
    control, inference, jobs, models = "no answer", "no answer", Counter[str](), list[str]()
    try:
        control = "serving" if client.healthy() else "not serving"
        jobs = Counter(state_name(job) for job in client.jobs())
        models = [model.name.removeprefix("models/") for model in client.models()]
    except UnavailableError as error:
        failures.append(error)
    try:
        inference = "ready" if client.inference.server_ready() else "loading models"
    except UnavailableError as error:
        failures.append(error)
    found = {
        "control": {"address": client.settings.control, "state": control},
        "inference": {"address": client.settings.inference, "state": inference},
        "jobs": dict(jobs),
        "models": models,
    }
    return found, failures


def _arguments(flags: dict[str, Any]) -> list[str]:
    """The flags of `up` as the service's own."""
    arguments: list[str] = []
    for name, value in flags.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, tuple):
            arguments += [flag, *value] if value else []
        elif value is True:
            arguments.append(flag)
        elif value is not None and value is not False:  # 0 is a value
            arguments += [flag, str(value)]
    return arguments


def _print_standby(pid: int, data_dir: Path, as_json: bool) -> None:
    if as_json:
        return print_json({"pid": pid, "standby": True})
    click.echo(f"Process {pid} stands by for the service on {data_dir}, and takes over when that one ends.")
    return click.echo(f"Stop it with: kill {pid}") if for_people() else None


def _elsewhere(data_dir: Path) -> bool:
    """Whether it is not where every command looks by itself."""
    return data_dir.resolve() != Path("batchyard-data").resolve()


def _print_running(running: Running, data_dir: Path, as_json: bool, verb: str) -> None:
    facts = running.facts
    if as_json:
        return print_json(facts)
    scheme = "https" if facts.get("tls") else "http"
    if for_people():
        click.echo(f"Batchyard {verb} (process {facts['pid']}), its data in {data_dir}")
    print_facts(
        [
            ("control plane", f"{facts['grpc']}"),
            ("dashboard", f"{scheme}://{facts['http']}"),
            ("inference", f"{facts.get('inference_grpc') or 'none'}"),
            (
                "inference metrics",
                f"{scheme}://{facts['inference_http']}/metrics" if facts.get("inference_http") else "",
            ),
        ]
    )
    if for_people():
        elsewhere = _elsewhere(data_dir)
        if elsewhere:
            click.echo(f"\nFor other commands here:\n  export BATCHYARD_CONTROL={facts['grpc']} "
                       f"BATCHYARD_INFERENCE={facts.get('inference_grpc')}")  # fmt: skip
        click.echo(f"\nTrain   batchyard submit examples/digits-mlp.yaml --follow"
                   f"\nStop    batchyard down{f' --data-dir {data_dir}' if elsewhere else ''}")  # fmt: skip
    return None
