"""``lamella completion``."""

from __future__ import annotations

import click

from lamella.cli import environment
from lamella.cli.output import write_text


@click.command("completion")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def command(shell: str) -> None:
    """Print a script that completes lamella's words in a shell.

    For bash: 'source <(lamella completion bash)' in ~/.bashrc. For zsh the same in ~/.zshrc, after compinit. For fish:
    'lamella completion fish > ~/.config/fish/completions/lamella.fish'. Names of images and keys of snapshots are
    completed too.
    """
    from click.shell_completion import get_completion_class

    from lamella.cli import bash

    bash.register()
    maker = get_completion_class(shell)
    assert maker is not None, shell
    root = click.get_current_context().find_root().command
    completer = maker(root, {}, "lamella", environment.COMPLETE)
    # Not source(): that of bash starts a bash to ask for its version.
    write_text((completer.source_template % completer.source_vars()).strip())
