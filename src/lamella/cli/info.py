"""``lamella info``."""

from __future__ import annotations

import os
import platform
from typing import Any

import click

from lamella import __version__
from lamella.cli import arguments
from lamella.cli.output import clean, human_size, write_json, write_text
from lamella.cli.session import Session, pass_session


@click.command("info")
@arguments.json_option
@pass_session
def command(here: Session, as_json: bool) -> None:
    """Show the store, the drivers that work here, and versions.

    The first driver that works is used for new snapshots, unless --driver says another.
    """
    with here.store() as store:
        drivers = store.drivers()
        sizes = {row.kind: row.size for row in store.usage()}
        document: dict[str, Any] = {
            "version": __version__,
            "root": str(store.root.absolute()),
            "images": len(store.images()),
            "snapshots": len(store.snapshots()),
            "mounted": sum(snapshot.mounted is not None for snapshot in store.snapshots()),
            "size": sum(sizes.values()),
            "driver": here.driver or next((name for name, works, _ in drivers if works), None),
            "drivers": [{"name": name, "works": works, "reason": reason} for name, works, reason in drivers],
            "python": platform.python_version(),
            "kernel": platform.release(),
            "machine": platform.machine(),
            "uid": os.geteuid(),
        }
    if as_json:
        write_json(document)
    else:
        _print(document)


def _print(document: dict[str, Any]) -> None:
    lines = {
        "Version": document["version"],
        "Root": clean(document["root"]),
        "Images": document["images"],
        "Snapshots": f"{document['snapshots']} ({document['mounted']} mounted)",
        "Size": human_size(document["size"]),
        "Driver": document["driver"] or "none works here",
        "Python": document["python"],
        "Kernel": f"{document['kernel']} ({document['machine']})",
        "User": f"{document['uid']}{' (root)' if document['uid'] == 0 else ''}",
    }
    for word, value in lines.items():
        write_text(f"{word + ':':<11}{value}")
    write_text("Drivers:")
    width = max(len(driver["name"]) for driver in document["drivers"]) + 2
    for driver in document["drivers"]:
        says = "works" if driver["works"] else f"no: {clean(driver['reason'])}"
        write_text(f"  {driver['name']:<{width}}{says}")
