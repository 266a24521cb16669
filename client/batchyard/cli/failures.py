"""How the command fails: two lines on stderr, what is wrong and what to do, and an exit code that says which kind."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from batchyard.client import BatchyardError

OK, FAILED, USAGE, UNREACHABLE, REFUSED, TIMED_OUT, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130

EXIT_CODES = """\
  0    done; with --follow: the job succeeded
  1    the operation or the job failed, or the job was cancelled
  2    wrong usage: flags, a job file, a value that the service refuses
  3    the service does not answer
  4    the service asks for a token, or for another one
  5    job wait: the time was up
  130  interrupted; a job that was followed goes on"""


class Failure(click.ClickException):
    """Something went wrong: what, and what to do about it."""

    def __init__(self, what: str, hint: str, code: int = FAILED) -> None:
        super().__init__(what)
        self.hint, self.code = hint, code


def run(command: Callable[[], object]) -> int:
    """Runs a command to its exit code."""
    try:
        code = command()
        sys.stdout.flush()
        return code if isinstance(code, int) else OK
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return USAGE
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "batchyard"
        return report(error.format_message(), f"See `{path} --help`.", USAGE)
    except Failure as failure:
        return report(failure.message, failure.hint, failure.code)
    except click.ClickException as error:
        return report(error.format_message(), "See `batchyard --help`.", FAILED)
    except (KeyboardInterrupt, click.Abort):
        return report("interrupted", "Nothing was undone.", INTERRUPTED)
    except BrokenPipeError:
        # The reader has seen enough (`| head`). Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        return _report_client_error(error)


def report(what: str, hint: str, code: int) -> int:
    """Prints the two lines; returns the code. Of a message of several lines only the first is told."""
    first, *more = what.strip().splitlines() or [""]
    click.echo(f"batchyard: {first}{' ...' if more else ''}\n  {hint or 'See `batchyard --help`.'}", err=True)
    return code


def _report_client_error(error: Exception) -> int:
    # Only when something went wrong is it worth the time to import what the client raises.
    from batchyard.client import errors

    if not isinstance(error, errors.BatchyardError):
        raise error
    usage = (errors.ConfigurationError, errors.JobFileError, errors.InvalidRequestError)
    if isinstance(error, usage):
        code = USAGE
    elif isinstance(error, errors.UnavailableError | errors.DeadlineExceededError):
        code = UNREACHABLE
    else:
        code = REFUSED if isinstance(error, errors.AccessError) else FAILED
    return report(error.message, error.hint or _hint(error), code)


def _hint(error: BatchyardError) -> str:
    """For an error that does not say itself what to do."""
    kind = type(error).__name__
    if kind == "PreconditionError" and (job := re.match(r"trainingJobs/([a-z0-9-]+)", error.message)):
        return f"See what it does with `batchyard job show {job[1]}`."
    return _SERVED if "not served here" in error.message else _HINTS.get(kind, "")


_SERVED = "Served are the newest version and those with an alias: `batchyard alias MODEL ALIAS VERSION`."
_HINTS = {
    "NotFoundError": "List what there is with `batchyard jobs` or `batchyard models`.",
    "AlreadyExistsError": "Give another --request-id, or none, to make a new one.",
    "InvalidRequestError": "Correct the value and run the command again.",
    "PreconditionError": "See what there is with `batchyard models`.",
    "ServiceError": "Look into the service's log: control.log in its data folder.",
    "OverloadedError": "Try again in a moment.",
}
