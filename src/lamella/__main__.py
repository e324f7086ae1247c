"""The command's entry: ``lamella`` and ``python -m lamella``."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line of this process; the result is the exit code."""
    if sys.argv[1:] == ["--version"]:
        # Asked by scripts in loops: not worth the start of everything else.
        from lamella import __version__

        try:
            print(f"lamella {__version__}", flush=True)
        except OSError:
            return 3
        return 0
    from lamella.cli.app import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
