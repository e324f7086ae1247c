"""The command as a whole: its verbs, which are imported one at a time, its global options, its end."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import click

from lamella import __version__
from lamella.cli import environment, failures, reporter
from lamella.cli.reporter import Mode
from lamella.cli.session import Session


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb of the command: the module that has it as ``command``, where help lists it, and what it does in a line."""

    module: str
    section: str
    summary: str


IMAGES, SNAPSHOTS, FILES, REGISTRIES, STORE = "Images", "Snapshots", "Files", "Registries", "Store"

VERBS: dict[str, Verb] = {
    "import": Verb("import_", IMAGES, "Make an image of the tar of a root file system."),
    "load": Verb("load", IMAGES, "Load images from an OCI layout or a docker archive."),
    "save": Verb("save", IMAGES, "Save images to an OCI layout or a docker archive."),
    "export": Verb("export", IMAGES, "Write the files of an image or a snapshot as a tar."),
    "import-graph": Verb("import_graph", IMAGES, "Bring Docker's image directory of 2013 into the store."),
    "export-graph": Verb("export_graph", IMAGES, "Write images into an image directory that Docker of 2013 reads."),
    "images": Verb("images", IMAGES, "List images."),
    "history": Verb("history", IMAGES, "Show how an image came to be."),
    "inspect": Verb("inspect", IMAGES, "Show everything about images and snapshots, as JSON."),
    "checksum": Verb("checksum", IMAGES, "Show the digests of images beside their checksums of 2013."),
    "exists": Verb("exists", IMAGES, "Tell by the exit code whether something exists."),
    "pull": Verb("pull", IMAGES, "Pull images from registries."),
    "push": Verb("push", IMAGES, "Push an image to a registry."),
    "copy": Verb("copy", IMAGES, "Copy images between registries, files and the store."),
    "tag": Verb("tag", IMAGES, "Give an image one more name."),
    "rmi": Verb("rmi", IMAGES, "Remove images."),
    "layer": Verb("layer", IMAGES, "List an image's layers, write one as a tar, tell which layers touched a path."),
    "create": Verb("create", SNAPSHOTS, "Create a snapshot on an image."),
    "ps": Verb("ps", SNAPSHOTS, "List snapshots."),
    "mount": Verb("mount", SNAPSHOTS, "Mount a snapshot, or list what is mounted."),
    "umount": Verb("umount", SNAPSHOTS, "Unmount snapshots."),
    "diff": Verb("diff", SNAPSHOTS, "Show what changed: in a snapshot, between images, in a directory."),
    "commit": Verb("commit", SNAPSHOTS, "Make an image of the changes of a snapshot."),
    "fork": Verb("fork", SNAPSHOTS, "Make a snapshot that starts from what another one holds."),
    "rollback": Verb("rollback", SNAPSHOTS, "Undo everything that was written to a snapshot."),
    "rm": Verb("rm", SNAPSHOTS, "Remove snapshots."),
    "ls": Verb("ls", FILES, "List files of an image or a snapshot."),
    "cat": Verb("cat", FILES, "Print files of an image or a snapshot."),
    "cp": Verb("cp", FILES, "Copy files out of an image or a snapshot, or into a snapshot."),
    "login": Verb("login", REGISTRIES, "Log in to a registry."),
    "logout": Verb("logout", REGISTRIES, "Forget the credentials for a registry."),
    "tags": Verb("tags", REGISTRIES, "List the tags of a repository at its registry."),
    "referrers": Verb(
        "referrers", REGISTRIES, "List what refers to an image: signatures, attestations, other artifacts."
    ),
    "graph": Verb("graph", STORE, "Work on Docker's image directory of 2013 in place."),
    "find": Verb("find", FILES, "Find files over every image, by name, path or content."),
    "gc": Verb("gc", STORE, "Remove what no name, snapshot or running process needs."),
    "prune": Verb("prune", STORE, "Give back space for what can be had again when it is needed."),
    "df": Verb("df", STORE, "Show what takes the disk."),
    "info": Verb("info", STORE, "Show the store, the drivers that work here, and versions."),
    "serve": Verb("serve", STORE, "Serve the store as a registry."),
    "completion": Verb("completion", STORE, "Print a script that completes lamella's words in a shell."),
}
"""Every verb. The summaries stand here too so that ``--help`` need not import them all; a test compares."""

ALIASES = {"unmount": "umount"}


class VerbGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        verb = VERBS.get(ALIASES.get(cmd_name, cmd_name))
        if verb is None:
            return None
        return cast(click.Command, importlib.import_module(f"lamella.cli.{verb.module}").command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None:
            import difflib

            near = difflib.get_close_matches(name, VERBS, n=1)
            ctx.fail(f"no such command '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""))
        ctx.ensure_object(Session).verb = name
        return name, command, args[1:]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section in (IMAGES, SNAPSHOTS, FILES, REGISTRIES, STORE):
            with formatter.section(section):
                formatter.write_dl([(name, verb.summary) for name, verb in VERBS.items() if verb.section == section])


def _print_version(ctx: click.Context, _: click.Parameter, value: Any) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"lamella {__version__}")
        ctx.exit()


@click.command(cls=VerbGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--root",
    metavar="DIR",
    envvar=environment.ROOT,
    help="The directory of the store.  [default: /var/lib/lamella for root, else $XDG_DATA_HOME/lamella]",
)
@click.option(
    "--driver", metavar="NAME", envvar=environment.DRIVER, help="How to mount new snapshots; see 'lamella info'."
)
@click.option(
    "--progress",
    type=click.Choice(reporter.MODES),
    default="auto",
    show_default=True,
    envvar=environment.PROGRESS,
    help="How progress is shown on standard error.",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
@click.pass_context
def app(ctx: click.Context, root: str | None, driver: str | None, progress: Mode) -> None:
    """Store, mount, change, diff and commit container images, with no daemon."""
    session = ctx.ensure_object(Session)
    if root is not None:
        session.root = Path(root)
    session.driver = driver
    session.progress = progress


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the result is the exit code. Prints every failure, raises none."""
    _prepare_streams()
    session = Session()
    try:
        with session.interrupts.installed():
            if os.environ.get(environment.COMPLETE):
                return _complete(os.environ[environment.COMPLETE])
            code = _invoke(arguments, session)
            sys.stdout.flush()
            return code
    except BaseException as error:  # noqa: BLE001 - the end of the line for all of them
        code = failures.report(error, session)
        _abandon_output()
        return code


def _invoke(arguments: Sequence[str], session: Session) -> int:
    if not arguments:
        arguments = ["--help"]
    session.progress = _asked_progress(arguments)
    try:
        with app.make_context("lamella", list(arguments), obj=session) as context:
            app.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    return failures.DONE


def _asked_progress(arguments: Sequence[str]) -> Mode:
    """What a failure to understand the rest of the command line needs to know: whether lines of JSON are read."""
    joined = " ".join(arguments)
    wanted = "--progress json" in joined or "--progress=json" in joined
    return "json" if wanted or os.environ.get(environment.PROGRESS) == "json" else "auto"


def _complete(instruction: str) -> int:
    from click.shell_completion import shell_complete

    from lamella.cli import bash

    bash.register()
    return shell_complete(app, {}, "lamella", environment.COMPLETE, instruction)


def _prepare_streams() -> None:
    """Make standard streams safe to use.

    A descriptor that the caller closed would be given to the next file that is opened, and what is meant for standard
    output would land in it. Characters that the locale does not have are escaped.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # Reading and writing fail there, as they would have.
            os.open(os.devnull, os.O_WRONLY if number == 0 else os.O_RDONLY)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - standard output lives as long as the process
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _abandon_output() -> None:
    """What could not be written must not be tried again, and complained about, when the interpreter ends."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    with suppress(OSError):
        os.dup2(null, 1)
    os.close(null)
