"""Where the state of a workflow lies: its home folder.

Always true:
- `$DATAFLARE_HOME` decides where it is set; else a workflow file's home is `.dataflare` beside it,
  whatever the working directory is;
- a file that is a symbolic link counts as lying where the link lies, as its relative paths do;
- a folder is moved only while nobody runs in it, and only when it belongs to the same file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dataflare.checkpoint.files import make_folder
from dataflare.checkpoint.lock import RunLock
from dataflare.checkpoint.runs import RunLog, utc_text
from dataflare.errors import RunError

FOLDER = ".dataflare"


def home_of(file: Path | None) -> Path:
    """The home of a workflow file; of a workflow without a file, the working directory's."""
    named = os.environ.get("DATAFLARE_HOME")
    if named:
        return Path(named).absolute()
    return (file.absolute().parent if file is not None else Path.cwd()) / FOLDER


def homes_from_here() -> list[Path]:
    """The homes that a command without a file looks in, nearest first: that of the working directory
    and those of its parents. At least one, which may not exist."""
    if os.environ.get("DATAFLARE_HOME"):
        return [home_of(None)]
    here = Path.cwd()
    existing = [folder / FOLDER for folder in (here, *here.parents) if (folder / FOLDER).is_dir()]
    return existing or [here / FOLDER]


def move_old_state(home: Path, workflow: str, file: Path | None) -> Iterator[str]:
    """Move the state that an earlier version left in the working directory to `home`.

    Gives what a user should read: that it was moved, or why it was not.
    """
    old, new = Path.cwd() / FOLDER / workflow, home / workflow
    if file is None or os.environ.get("DATAFLARE_HOME") or not _is_of(old, file):
        return
    if old.resolve() == new.resolve():
        return
    if (new / "runs").is_dir():
        yield f"{old} holds older state of this workflow, and {new} is used; remove the one you do not need"
        return
    try:
        with RunLock(old, "moving", utc_text(0)):
            make_folder(home)
            old.rename(new)
    except (OSError, RunError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.message
        yield f"{old} holds the state of this workflow and could not be moved to {new}: {reason}"
        return
    yield f"the state of this workflow lay in {old} and was moved to {new}"


def _is_of(folder: Path, file: Path) -> bool:
    """Whether the newest run in a workflow's folder was of this file."""
    last = RunLog(folder).last() if (folder / "runs").is_dir() else None
    return last is not None and last.file is not None and _same(Path(last.file), file)


def _same(one: Path, other: Path) -> bool:
    return one == other.absolute() or one.resolve() == other.resolve()
