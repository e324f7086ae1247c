"""``lamella mount``."""

from __future__ import annotations

from pathlib import Path

import click

from lamella.cli import arguments, describe
from lamella.cli.output import clean, write_json, write_table, write_text
from lamella.cli.session import Session, pass_session


@click.command("mount")
@click.argument("key", required=False, shell_complete=arguments.complete_snapshot)
@click.argument("target", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@arguments.json_option
@arguments.quiet_option
@pass_session
def command(here: Session, key: str | None, target: Path | None, as_json: bool, quiet: bool) -> None:
    """Mount a snapshot, or list what is mounted.

    The path where the files are is printed: DIR if one is given and the driver can mount there, else a directory of the
    store. The mount stays until 'lamella umount KEY'. Without KEY, what is mounted is listed.
    """
    with here.store() as store, here.reporting(quiet=quiet) as progress:
        if key is not None:
            snapshot = store.snapshot(key)
            mounted = snapshot.attach(target, progress=progress)
            if as_json:
                write_json(describe.snapshot(snapshot))
            else:
                write_text(clean(str(mounted.root)))
            return
        live = [(snapshot, at) for snapshot in store.snapshots() if (at := snapshot.mounted) is not None]
        if as_json:
            write_json([describe.snapshot(snapshot) for snapshot, _ in live])
        else:
            rows = [(snapshot.key, at.driver, clean(str(at.root))) for snapshot, at in live]
            write_table(("KEY", "DRIVER", "MOUNTED AT"), rows)
