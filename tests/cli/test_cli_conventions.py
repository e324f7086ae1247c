"""What holds for every verb: streams, exit codes, signals, progress, help, completion, start-up."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import click
import pytest
from cli_support import BASE, Cli, tar_of

import lamella
from lamella.cli import app, output
from lamella.cli.reporter import JsonReporter, PlainReporter, Reporter
from lamella.formats.detect import KINDS
from lamella.spec.progress import Cancelled

ROOT = click.Context(app.app, info_name="lamella")


# -- help and start-up


def test_version_and_help(cli: Cli) -> None:
    run = [sys.executable, "-m", "lamella"]
    for words in (["--version"], ["--root", "x", "--version"]):
        assert subprocess.check_output([*run, *words]).decode() == f"lamella {lamella.__version__}\n"
    for words in (["--help"], ["-h"], []):
        text = subprocess.check_output([*run, *words]).decode()
        assert all(re.search(rf"^  {verb} ", text, re.MULTILINE) for verb in app.VERBS)
    assert not cli.root.exists()


@pytest.mark.parametrize("verb", app.VERBS)
def test_help_of_a_verb_begins_with_what_the_list_of_verbs_says(verb: str) -> None:
    command = app.app.get_command(ROOT, verb)
    assert command is not None
    assert (command.help or "").splitlines()[0] == app.VERBS[verb].summary
    assert command.name == verb
    for parameter in command.params:
        assert isinstance(parameter, click.Argument) or parameter.help, parameter.name  # type: ignore[attr-defined]


def test_every_verb_has_a_module_and_every_module_a_verb() -> None:
    package = Path(app.__file__).parent
    with_command = {path.stem for path in package.glob("*.py") if "\ncommand" in path.read_text() or
                    "\ndef command(" in path.read_text()}  # fmt: skip
    assert with_command == {verb.module for verb in app.VERBS.values()}


def test_formats_are_those_that_the_library_has() -> None:
    assert set(importlib.import_module("lamella.cli.save").FORMATS) == set(KINDS)


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["images", "--help"], ["cp", "--help"]])
def test_little_is_imported_to_say_little(words: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "lamella", *words]
    done = subprocess.run(command, capture_output=True, check=True)
    names = {line.rpartition(b"|")[2].strip().decode() for line in done.stderr.splitlines()}
    heavy = {"sqlite3", "msgspec", "isal", "rich", "ctypes", "subprocess", "lamella.store.store", "concurrent.futures"}
    assert not names & heavy
    if words == ["--version"]:
        assert "click" not in names


# -- exit codes and failures


def test_what_is_not_understood_is_exit_code_two(cli: Cli) -> None:
    assert cli.fails(2, "imges") == "no such command 'imges'; did you mean 'images'?; see 'lamella --help'"
    assert cli.fails(2, "rmi") == "rmi: missing argument 'IMAGE...'; see 'lamella rmi --help'"
    assert cli.fails(2, "images", "--nope").startswith("images: no such option")
    assert not cli.root.exists()


def test_a_failure_is_one_line_with_what_and_why_and_a_hint(base: Cli) -> None:
    assert base.fails(10, "tag", "nope", "x") == "tag: nope: no such image; 'lamella images -a' lists what there is"
    assert base.fails(12, "tag", "base:1", "UPPER").startswith("tag: 'UPPER' is not an image name: ")


def test_a_traceback_is_shown_when_it_is_asked_for(base: Cli) -> None:
    environment = {**base.environment(), "LAMELLA_DEBUG": "1"}
    done = subprocess.run(base.command("rmi", "nope"), env=environment, capture_output=True, check=False)
    assert done.returncode == 10
    assert b"Traceback" in done.stderr
    assert done.stderr.decode().splitlines()[-1].startswith("lamella: rmi: nope: no such image")


def test_a_store_that_cannot_be_made_is_told(cli: Cli) -> None:
    cli.root.write_text("a file")
    assert cli.fails(12, "images") == f"images: {cli.root}: Not a directory"
    cli.root.unlink()


# -- streams


def test_a_reader_that_went_away_is_no_failure(base: Cli) -> None:
    for line in (
        "images",
        "ls -R base:1",
        "save -q base:1",
        "export -q base:1",
        "layer base:1 0",
        "cat base:1 var/log/old",
        "cp -q base:1:/ -",
    ):
        reading, writing = os.pipe()
        os.close(reading)
        process = base.start(*line.split(), stdout=writing, stderr=subprocess.PIPE)
        os.close(writing)
        _, said = process.communicate()
        assert (process.returncode, said) == (141, b""), line


def test_a_full_disk_behind_standard_output_is_told(base: Cli) -> None:
    for words in (["images"], ["save", "base:1"], ["cat", "base:1", "etc/motd"]):
        with open("/dev/full", "wb") as full:
            process = base.start(*words, stdout=full, stderr=subprocess.PIPE)
            _, said = process.communicate()
        assert process.returncode == 20, words
        assert b"No space left on device" in said
    assert base("images", "-q").lines


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_closed_descriptor_is_not_taken_for_the_database(base: Cli, closed: str) -> None:
    line = " ".join(f"'{word}'" for word in base.command("save", "base:1"))
    for _ in range(2):
        subprocess.run(["sh", "-c", f"{line} {closed}"], env=base.environment(), check=False, capture_output=True)
    assert base("cat", "base:1", "etc/motd").out == b"welcome\n"


def test_binary_output_is_not_written_to_a_terminal(base: Cli) -> None:
    for words in (["save", "base:1"], ["export", "base:1"], ["layer", "base:1", "0"], ["cp", "base:1:/etc", "-"]):
        main, terminal = pty.openpty()
        process = base.start(*words, stdout=terminal, stderr=subprocess.PIPE)
        _, said = process.communicate()
        os.close(terminal)
        os.close(main)
        assert process.returncode == 2, words
        assert b"standard output is a terminal" in said


def test_what_is_said_beside_the_result_goes_to_standard_error(base: Cli) -> None:
    done = base("create", "base:1", "--name", "dev", "--driver", "copy")
    assert done.text == "dev\n"
    done = base("import", "-", "other", stdin=tar_of({"a": b"1"}))
    assert re.fullmatch(r"sha256:[0-9a-f]{64}\n", done.text)
    assert re.fullmatch(r"importing -: [0-9.]+kB\n", done.err)


# -- progress


def test_progress_as_lines_of_json(base: Cli) -> None:
    done = base("--progress", "json", "import", "-", "x", stdin=tar_of(BASE))
    events = [json.loads(line) for line in done.err.splitlines()]
    assert events[0] == {"event": "start", "key": "-", "action": "importing", "total": None, "unit": "bytes"}
    assert events[-1] == {"event": "done", "key": "-", "outcome": "done", "done": len(tar_of(BASE)), "unit": "bytes"}
    base.env["LAMELLA_PROGRESS"] = "json"
    done = base("rmi", "nope", code=10)
    assert json.loads(done.err) == {
        "event": "failure", "verb": "rmi", "kind": "not-found", "code": "image-not-found", "exit_code": 10,
        "message": "nope: no such image; 'lamella images -a' lists what there is",
    }  # fmt: skip


def test_progress_on_a_terminal_is_a_bar_with_bytes_and_rate(base: Cli) -> None:
    base.env["TERM"] = "xterm"
    main, terminal = pty.openpty()
    (base.cwd / "x.tar").write_bytes(tar_of(BASE))
    process = base.start("import", "x.tar", "x", stderr=terminal, stdout=subprocess.PIPE)
    chunks: list[bytes] = []

    def read() -> None:
        try:
            while chunk := os.read(main, 4096):
                chunks.append(chunk)
        except OSError:
            return

    reader = threading.Thread(target=read)
    reader.start()
    out, _ = process.communicate()
    os.close(terminal)
    reader.join()
    os.close(main)
    shown = b"".join(chunks).decode()
    assert re.fullmatch(rb"sha256:[0-9a-f]{64}\n", out)
    assert "importing x.tar" in shown
    assert re.search(r"[0-9.]+/[0-9.]+ (kB|MB)", shown)
    assert "B/s" in shown
    assert shown.rstrip().endswith("\x1b[?25h")


def test_no_progress_when_none_is_wanted(base: Cli) -> None:
    for words in (["--progress", "none", "import", "-"], ["import", "-q", "-"]):
        assert base(*words, stdin=tar_of(BASE)).err == ""


def test_a_reporter_stops_every_thread_once_it_is_cancelled(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = PlainReporter()
    reporter.start("a", "copying", total=4)
    reporter.advance("a", 4)
    reporter.done("a")
    reporter.start("b", "copying")
    reporter.done("b", "exists")
    reporter.cancel()
    with pytest.raises(Cancelled):
        reporter.advance("c", 1)
    with pytest.raises(Cancelled):
        reporter.start("c", "copying")
    reporter.done("c")
    assert capsys.readouterr().err == "copying a: 4B\ncopying b: exists\n"


def test_notes_are_shown_once_and_not_without_end(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in (Reporter, PlainReporter):
        reporter = kind()
        for number in range(100):
            reporter.note(f"note {number // 2}\n\x1b[1m")
        reporter.close()
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 21
        assert lines[0] == "lamella: note: note 0 \\x1b[1m"
        assert lines[-1] == "lamella: note: and 30 more such notes"


def test_a_reporter_takes_calls_from_many_threads(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = JsonReporter()

    def work(name: str) -> None:
        reporter.start(name, "copying")
        for _ in range(1000):
            reporter.advance(name, 3)
        reporter.done(name)

    threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {event["key"]: event["done"] for event in events if event["event"] == "done"} == {
        f"t{n}": 3000 for n in range(8)
    }


# -- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_command_and_leaves_nothing(cli: Cli, number: signal.Signals) -> None:
    process = cli.start("--progress", "json", "import", "-", "x", stdin=-1, stdout=-1, stderr=-1)
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(tar_of({"big": bytes(8 << 20)})[: 4 << 20])
    process.stdin.flush()
    for line in process.stderr:  # it is at work once it has said that it took something
        if json.loads(line)["event"] == "progress":
            break
    process.send_signal(number)
    out, said = process.communicate()
    assert process.returncode == 128 + number
    assert out == b""
    assert json.loads(said.splitlines()[-1])["message"] == "interrupted"
    assert cli("images", "-a", "-q").out == b""
    assert cli("gc", "-n", "--json").json["items"] == []


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
def test_a_signal_ends_a_command_that_waits_for_input_for_ever(cli: Cli, *, compressed: bool) -> None:
    process = cli.start("--progress", "json", "import", "-", "x", stdin=-1, stdout=-1, stderr=-1)
    assert process.stdin is not None
    assert process.stderr is not None
    data = tar_of({"big": os.urandom(8 << 20)})
    process.stdin.write((gzip.compress(data, 1) if compressed else data)[: 4 << 20])
    process.stdin.flush()
    for line in process.stderr:
        if json.loads(line)["event"] == "progress":
            break
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 128 + signal.SIGINT
    process.communicate()
    assert cli("images", "-a", "-q").out == b""
    assert cli("gc", "-n", "--json").json["items"] == []


def test_an_ignored_signal_stays_ignored(base: Cli) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = base.start("import", "-", "x", stdin=-1, stdout=-1, stderr=-1, preexec_fn=ignore)
    data = tar_of({"big": bytes(1 << 20)})
    assert process.stdin is not None
    process.stdin.write(data[:900_000])
    process.stdin.flush()
    process.send_signal(signal.SIGHUP)
    process.communicate(data[900_000:])
    assert process.returncode == 0


# -- completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_one_that_the_shell_takes(cli: Cli, shell: str) -> None:
    script = cli("completion", shell, quiet=True).text
    assert "_LAMELLA_COMPLETE" in script
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"there is no {shell} here to check its script")
    subprocess.run([program, "-n"], input=script, text=True, check=True)


def complete(cli: Cli, line: str) -> list[str]:
    """What bash is told that could follow."""
    variables = {"_LAMELLA_COMPLETE": "bash_complete", "COMP_LINE": line, "COMP_WORDBREAKS": " \t\n\"'><=;|&(:"}
    environment = {**cli.environment(), **variables, "LAMELLA_ROOT": str(cli.root)}
    done = subprocess.run([sys.executable, "-m", "lamella"], env=environment, capture_output=True, check=True)
    return [text.partition(",")[2] for text in done.stdout.decode().split()]


def test_completion_knows_verbs_options_names_and_keys(base: Cli) -> None:
    base("create", "-q", "base:1", "--name", "dev", "--driver", "copy")
    assert complete(base, "lamella im") == ["import", "import-graph", "images"]
    assert "--no-trunc" in complete(base, "lamella images --")
    assert complete(base, "lamella history ba") == ["base:1"]
    assert complete(base, "lamella commit ") == ["dev"]
    assert complete(base, "lamella inspect ") == ["dev", "base:1"]
    assert complete(base, "lamella save --format ") == ["oci-archive", "oci-dir", "docker-archive"]
    assert complete(base, "lamella --driver copy cp de") == ["de", "dev"]


def test_bash_itself_completes_names_with_colons(base: Cli) -> None:
    base("tag", "base:1", "base:22")
    base("tag", "base:1", "other:1")
    script = base("completion", "bash").text
    test = f"""
    lamella() {{ '{sys.executable}' -m lamella "$@"; }}
    env() {{ local words=("$@"); export "${{words[@]:0:3}}"; lamella; }}
    {script}
    COMP_LINE='lamella history base:' COMP_POINT=21
    _lamella_completion lamella 'base:' history
    echo "${{COMPREPLY[@]}}"
    """
    environment = {**base.environment(), "LAMELLA_ROOT": str(base.root)}
    done = subprocess.run(["bash", "--norc", "-c", test], env=environment, capture_output=True, check=True, text=True)
    assert done.stdout.split() == ["1", "22"]
    assert complete(base, "lamella cat base:2") == ["22"]
    assert complete(base, "lamella save --format=oci-d") == ["oci-dir"]


def test_completion_makes_no_store(cli: Cli) -> None:
    assert complete(cli, "lamella history ") == []
    assert not cli.root.exists()


# -- words


def test_sizes_are_said_as_docker_says_them() -> None:
    shown = {0: "0B", 999: "999B", 1000: "1kB", 1337: "1.34kB", 999_999: "1MB", 7_792_915: "7.79MB", 10**12: "1TB"}
    assert {size: output.human_size(size) for size in shown} == shown


# -- the other verbs about the store


def test_gc_shows_the_same_dry_and_wet(base: Cli) -> None:
    base("import", "-", stdin=tar_of({"a": b"1" * 10_000}))
    dry = base("gc", "--dry-run", "--json").json
    assert dry["size"] > 0
    assert base("gc", "-n").lines[-1].startswith("Total reclaimable space: ")
    wet = base("gc", "--json").json
    assert (wet["items"], wet["size"], wet["dry_run"]) == (dry["items"], dry["size"], False)
    assert base("gc").lines == ["Total reclaimed space: 0B"]
    assert base("images", "-q", "-a").lines == base("images", "-q", "base").lines


def test_df_and_info_tell_what_there_is(base: Cli) -> None:
    base("create", "-q", "base:1", "--name", "dev")
    assert base("df").lines[0].split() == ["TYPE", "COUNT", "SIZE", "RECLAIMABLE", "PRUNABLE"]
    document = base("df", "-v", "--json").json
    counts = {row["kind"]: row["count"] for row in document["usage"]}
    assert (counts["tar"], counts["snapshot"]) == (1, 1)
    assert [image["name"] for image in document["images"]] == ["base:1"]
    assert "base:1" in base("df", "-v").text
    info = base("info", "--json").json
    assert (info["images"], info["snapshots"], info["root"]) == (1, 1, str(base.root))
    assert info["driver"] in [driver["name"] for driver in info["drivers"] if driver["works"]]
    assert all(driver["works"] or driver["reason"] for driver in info["drivers"])
    text = base("info").text
    assert f"Root:      {base.root}" in text
    assert "copy" in text
