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
    import signal

    # Before there is anything to clean up, and after it, Ctrl-C ends the process without a word.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from lamella.cli.app import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
