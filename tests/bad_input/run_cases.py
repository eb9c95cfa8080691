"""Runs that may not start, cannot go on, or have nowhere to put what they wrote."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bad_case import Case, all_of, command

ENDLESS = """\
name: w
settings: {mode: streaming, parallelism: 1, checkpoint: {interval: 20ms}}
sources:
  a: {type: generate, config: {columns: {id: {sequence: 0}}, rate: 500/s}}
transformations:
  even: {type: filter, inputs: [a], config: {condition: id % 2 = 0}}
destinations:
  z: {type: blackhole, inputs: [even]}
"""
SHORTLY = "run w.yaml --quiet --for 800ms"


def newest(change: Callable[[bytes], bytes | None], count: int = 1) -> Callable[[Path], None]:
    """Change (or, for None, delete) the newest checkpoints."""

    def do(folder: Path) -> None:
        found = sorted((folder / ".dataflare/w").glob("*/manifest-*.json"), reverse=True)
        assert len(found) >= 2
        for path in found[:count]:
            data = change(path.read_bytes())
            path.unlink() if data is None else path.write_bytes(data)

    return do


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def rewritten(old: str, new: str) -> Callable[[Path], None]:
    """Change the text of the workflow file."""

    def do(folder: Path) -> None:
        path = folder / "w.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return do


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """Another process runs the same workflow."""
    with subprocess.Popen(
        [sys.executable, "-m", "dataflare", "run", "other.yaml"],
        cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline()
        yield
        other.kill()


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """`small/` has room for 64 KiB."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "small"],
        cwd=folder,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", "small"], cwd=folder, check=False)


def folder(path: Path) -> None:
    path.mkdir()


def broken_current(folder: Path) -> None:
    (folder / ".dataflare/w/current.json").write_text("{")


CASES = [
    Case(
        "a second run at the same time",
        ENDLESS,
        status=1,
        files={"other.yaml": ENDLESS.replace("blackhole", "stdout")},
        during=running,
        says="""\
error[E0801]: workflow 'w' is already running: run RUN, started TIME, process PID
   = help: wait for it to end, or stop it
""",
    ),
    Case(
        "a step that has changed",
        ENDLESS,
        before=all_of(command(SHORTLY), rewritten("% 2 = 0", "% 2 = 1")),
        says="""\
error[E0803]: the unfinished run of 'w' cannot resume: step 'even' has changed
 --> w.yaml:6:3
  |
6 |   even: {type: filter, inputs: [a], config: {condition: id % 2 = 1}}
  |   ^^^^
   = changed since checkpoint N: even
   = help: undo the change, or use --accept-changes to resume anyway, or --fresh to start over
""",
    ),
    Case(
        "a step that is new",
        ENDLESS,
        before=all_of(command(SHORTLY), rewritten("even:", "odd:"), rewritten("[even]", "[odd]")),
        says="""\
error[E0803]: the unfinished run of 'w' cannot resume: step 'z' has changed
 --> w.yaml:8:3
  |
8 |   z: {type: blackhole, inputs: [odd]}
  |   ^
   = changed since checkpoint N: z, odd (new), even (gone)
   = help: undo the change, or use --accept-changes to resume anyway, or --fresh to start over
""",
    ),
    Case(
        "a source that has changed",
        ENDLESS,
        before=all_of(command(SHORTLY), rewritten("sequence: 0", "sequence: 1")),
        says="""\
error[E0803]: the unfinished run of 'w' cannot resume: step 'a' has changed
 --> w.yaml:4:3
  |
4 |   a: {type: generate, config: {columns: {id: {sequence: 1}}, rate: 500/s}}
  |   ^
   = changed since checkpoint N: a
   = help: undo the change, or use --accept-changes to resume anyway, or --fresh to start over
""",
    ),
    Case(
        "a checkpoint cut short",
        ENDLESS,
        SHORTLY,
        status=0,
        before=all_of(command(SHORTLY), newest(cut)),
        says="""\
warning: checkpoint N is damaged (its end is missing)
warning: the run goes on from checkpoint N-1, and reads again what came after it
""",
    ),
    Case(
        "a checkpoint with a changed bit",
        ENDLESS,
        SHORTLY,
        status=0,
        before=all_of(command(SHORTLY), newest(flipped)),
        says="""\
warning: checkpoint N is damaged (its checksum does not match its content)
warning: the run goes on from checkpoint N-1, and reads again what came after it
""",
    ),
    Case(
        "an empty checkpoint",
        ENDLESS,
        SHORTLY,
        status=0,
        before=all_of(command(SHORTLY), newest(lambda data: b"")),
        says="""\
warning: checkpoint N is damaged (it is empty)
warning: the run goes on from checkpoint N-1, and reads again what came after it
""",
    ),
    Case(
        "no checkpoint that can be read",
        ENDLESS,
        SHORTLY,
        status=1,
        before=all_of(command(SHORTLY), newest(cut, 99)),
        says="""\
error[E0701]: no checkpoint of the last run can be read
   = checkpoint N: its end is missing
   = checkpoint N-1: its end is missing
   = checkpoint N-2: its end is missing
   = its checkpoints are in .dataflare/w/FOLDER
   = help: restore the checkpoint folder from a backup, or start over with --fresh
""",
    ),
    Case(
        "the newest checkpoint is gone",
        ENDLESS,
        SHORTLY,
        status=0,
        before=all_of(command(SHORTLY), newest(lambda data: None)),
        says="""\
warning: checkpoint N is missing
warning: the run goes on from checkpoint N-1, and reads again what came after it
""",
    ),
    Case(
        "all checkpoints are gone",
        ENDLESS,
        SHORTLY,
        status=1,
        before=all_of(command(SHORTLY), newest(lambda data: None, 99)),
        says="""\
error[E0701]: no checkpoint of the last run can be read
   = checkpoint N: it is missing
   = its checkpoints are in .dataflare/w/FOLDER
   = help: restore the checkpoint folder from a backup, or start over with --fresh
""",
    ),
    Case(
        "what the last run left is unreadable",
        ENDLESS,
        SHORTLY,
        status=1,
        before=all_of(command(SHORTLY), broken_current),
        says="""\
error[E0701]: the state of the last run cannot be read: current.json: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)
   = help: restore the checkpoint folder from a backup, or start over with --fresh
""",
    ),
    Case(
        "a file where the state folder is to be",
        ENDLESS,
        SHORTLY,
        status=1,
        files={".dataflare": "x"},
        says="""\
error[E0604]: the state of the workflow cannot be kept in .dataflare/w: .dataflare is not a folder
   = help: move it away, or set DATAFLARE_HOME to another folder
""",
    ),
    Case(
        "a file where the workflow's state is to be",
        ENDLESS,
        SHORTLY,
        status=1,
        files={".dataflare/w": "x"},
        says="""\
error[E0604]: the state of the workflow cannot be kept in .dataflare/w: .dataflare/w is not a folder
   = help: move it away, or set DATAFLARE_HOME to another folder
""",
    ),
    Case(
        "a folder where the lock is to be",
        ENDLESS,
        SHORTLY,
        status=1,
        files={".dataflare/w/lock": folder},
        says="""\
error[E0600]: cannot write the workflow's lock .dataflare/w/lock: Is a directory
   = help: state is stored in the folder that DATAFLARE_HOME names
""",
    ),
    Case(
        "a full disk",
        ENDLESS.replace("rate: 500/s", "rows: 50000")
        .replace("mode: streaming, ", "restart: {attempts: 0}, ")
        .replace("blackhole", "file")
        .replace("inputs: [even]", "inputs: [even], config: {path: small/out.csv}"),
        status=1,
        files={"small": folder},
        during=small_disk,
        says="""\
error[E0603]: disk full while writing small/out.csv (step 'z')
 --> w.yaml:8:50
  |
8 |   z: {type: file, inputs: [even], config: {path: small/out.csv}}
  |                                                  ^^^^^^^^^^^^^
   = help: free some space and run again: the run continues from the last checkpoint
""",
    ),
]
