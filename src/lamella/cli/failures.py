"""From an exception to one line on standard error and an exit code."""

from __future__ import annotations

import sys

import click

from lamella.cli import environment
from lamella.cli.interrupts import Interrupted
from lamella.cli.output import clean
from lamella.cli.reporter import write_event, write_line
from lamella.cli.session import Session
from lamella.errors import LamellaError

DONE = 0
NO = 1
USAGE = 2
FAILURE = 3
BROKEN_PIPE = 141

EXIT_CODES = (
    (DONE, "done"),
    (NO, "the answer is no: not found by `exists`, differences found by `diff --exit-code`"),
    (USAGE, "the command was not understood"),
    (FAILURE, "a failure of no kind below: a bug"),
    (129, "ended by SIGHUP, everything cleaned up"),
    (130, "ended by Ctrl-C (SIGINT), everything cleaned up"),
    (BROKEN_PIPE, "the reader of standard output is gone; nothing is said"),
    (143, "ended by SIGTERM, everything cleaned up"),
)
"""Exit codes other than those of the kinds of errors, for the manual."""


def report(error: BaseException, session: Session) -> int:
    """Say on standard error what went wrong, and return the exit code."""
    if is_broken_pipe(error):
        return BROKEN_PIPE
    if environment.debugging():
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, Interrupted):
        _say(session, "interrupted", code="interrupted", kind="interrupted", exit_code=error.exit_code)
        return error.exit_code
    if session.interrupts.received:  # the first signal's doing, whatever came of it
        return report(Interrupted(session.interrupts.received), session)
    if isinstance(error, LamellaError):
        message = f"{error}; {error.hint}" if error.hint else str(error)
        _say(session, message, code=error.code, kind=error.kind, exit_code=error.exit_code)
        return error.exit_code
    if isinstance(error, click.ClickException):
        _say(session, _usage(error, session), code="usage", kind="usage", exit_code=USAGE)
        return USAGE
    if isinstance(error, OSError):
        return report(_of_system(error), session)
    if isinstance(error, MemoryError):
        return report(_out_of_memory(), session)
    text = f"internal error: {type(error).__name__}: {error}; {environment.DEBUG}=1 shows where"
    _say(session, text, code="internal", kind="error", exit_code=FAILURE)
    return FAILURE


def is_broken_pipe(error: BaseException | None) -> bool:
    """Whether it all began with a reader of standard output that is gone."""
    while error is not None:
        if isinstance(error, BrokenPipeError):
            return True
        error = error.__cause__
    return False


def _say(session: Session, message: str, *, code: str, kind: str, exit_code: int) -> None:
    text = clean(message)
    if session.progress == "json":
        write_event("failure", verb=session.verb, message=text, code=code, kind=kind, exit_code=exit_code)
        return
    write_line(f"lamella: {session.verb}: {text}" if session.verb else f"lamella: {text}")


def _usage(error: click.ClickException, session: Session) -> str:
    text = error.format_message().rstrip(".")
    text = text[:1].lower() + text[1:]
    command = f"lamella {session.verb}".rstrip()
    return f"{text}; see '{command} --help'"


def _of_system(error: OSError) -> LamellaError:
    from lamella._sys.files import map_os_error

    return map_os_error(error, str(error.filename) if error.filename else "standard output")


def _out_of_memory() -> LamellaError:
    from lamella.errors import ResourceExhausted

    return ResourceExhausted("out of memory", code="out-of-memory")
