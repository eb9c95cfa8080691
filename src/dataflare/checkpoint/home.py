"""The home folder: where the state of a workflow is stored.

Always true:
- `$DATAFLARE_HOME` is used if it is set; otherwise the home of a workflow file is `.dataflare` beside
  it, whatever the working directory is;
- for a file that is a symbolic link, the folder of the link counts, as for its relative paths;
- a folder is moved only while no run uses it, and only if it belongs to the same file.
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
BACKFILLS = "backfills"
"""The folder of backfills, inside a workflow's folder. It has a folder for each, with a home for each shard."""


def home_of(file: Path | None) -> Path:
    """The home of a workflow file. Without a file it is the home of the working directory."""
    home_variable = os.environ.get("DATAFLARE_HOME")
    if home_variable:
        return Path(home_variable).absolute()
    return (file.absolute().parent if file is not None else Path.cwd()) / FOLDER


def shards_of(folder: Path) -> list[Path]:
    """The folders of the shards of a workflow's backfills, each as that of a workflow. folder: the workflow's."""
    return sorted(path.parent for path in folder.glob(f"{BACKFILLS}/*/*/*/runs"))


def homes_from_here() -> list[Path]:
    """The homes in which a command without a file looks, nearest first: those of the working directory
    and of its parents. There is at least one; it may not exist."""
    if os.environ.get("DATAFLARE_HOME"):
        return [home_of(None)]
    working_folder = Path.cwd()
    existing = [
        folder / FOLDER
        for folder in (working_folder, *working_folder.parents)
        if (folder / FOLDER).is_dir()
    ]
    return existing or [working_folder / FOLDER]


def move_old_state(home: Path, workflow: str, file: Path | None) -> Iterator[str]:
    """Move the state that an earlier version left in the working directory to `home`.

    Yields messages for the user: that the state was moved, or why it was not.
    """
    old, new = Path.cwd() / FOLDER / workflow, home / workflow
    if file is None or os.environ.get("DATAFLARE_HOME") or not _is_of(old, file):
        return
    if old.resolve() == new.resolve():
        return
    if (new / "runs").is_dir():
        yield f"{old} holds older state of this workflow, and {new} is used; remove the folder that you do not need"
        return
    try:
        with RunLock(old, "moving", utc_text(0)):
            make_folder(home)
            old.rename(new)
    except (OSError, RunError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.message
        yield f"{old} holds the state of this workflow and could not be moved to {new}: {reason}"
        return
    yield f"the state of this workflow was in {old} and was moved to {new}"


def _is_of(folder: Path, file: Path) -> bool:
    """Whether the newest run in a workflow's folder was of this file."""
    last_run = RunLog(folder).last() if (folder / "runs").is_dir() else None
    return last_run is not None and last_run.file is not None and _same(Path(last_run.file), file)


def _same(path: Path, other: Path) -> bool:
    return path == other.absolute() or path.resolve() == other.resolve()
