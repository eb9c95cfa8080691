"""Files that are there whole or not at all, and survive a power cut once written.

Always true:
- a reader sees the old content or the new one; an error leaves no half file behind;
- what is made here is for its owner alone, whatever the umask (files are 0600, folders 0700), unless
  the caller says otherwise.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from dataflare.errors import Retry, SystemError_, WorkflowError
from dataflare.sdk.crashpoints import crash_point

TEMPORARY = ".tmp-"
"""How the names of files begin that are not whole yet."""

_WORKFLOW = re.compile(r"[a-z][a-z0-9_-]{0,62}", re.ASCII)
_STEP = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*", re.ASCII)
_NO_RIGHT = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_whole(
    path: Path,
    data: bytes,
    *,
    crash: str | None = None,
    name_durable: bool = True,
    mode: int = 0o600,
) -> None:
    """Put `data` at `path` in one act: a temporary file, fsync, rename, fsync of the folder.

    crash: the prefix of the crash points `.before_rename` and `.after_rename`. name_durable: False
    leaves the fsync of the folder to somebody who comes later. mode: the file's rights. OSErrors pass.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with open_private(temporary, mode=mode) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if crash:
            crash_point(f"{crash}.before_rename")
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if crash:
        crash_point(f"{crash}.after_rename")
    if name_durable:
        sync_folder(path.parent)


def open_private(path: Path, *, mode: int = 0o600) -> IO[bytes]:
    """Open an empty file for writing that only its owner may read."""
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    os.fchmod(number, mode)
    return open(number, "wb")


def remove_temporaries(folder: Path) -> None:
    """Remove what writers that were killed left half written. Called while nobody writes there."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.name.startswith(TEMPORARY):
                path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def make_folder(folder: Path, *, private: bool = True) -> Path:
    """The folder, made with its parents if need be, durably. private: for its owner alone; else with
    the rights that the umask leaves."""
    if folder.is_dir():
        return folder
    parent = make_folder(folder.parent, private=private)
    folder.mkdir(exist_ok=True)
    if private:
        folder.chmod(0o700)
    sync_folder(parent)
    return folder


@contextlib.contextmanager
def writing(what: str, *, intact: Callable[[], str] | None = None) -> Iterator[None]:
    """Make an OSError ours: E0603 for a full disk, E0602 for missing rights, else E0600.

    what: "a checkpoint". intact: says what is still good, asked when the disk is full.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno not in _NO_ROOM:
            where = f" {error.filename}" if error.filename else ""
            code = "E0602" if error.errno in _NO_RIGHT else "E0600"
            raise SystemError_(
                f"cannot write {what}{where}: {reason}",
                code=code,
                help="set DATAFLARE_HOME to a folder that may be written: state is kept there"
                if code == "E0602"
                else "DATAFLARE_HOME says where state is kept",
            ) from error
        raise SystemError_(
            f"disk full while writing {what}" + (f"; {intact()}" if intact else ""),
            code="E0603",
            notes=[reason],
            help="make room on the disk of DATAFLARE_HOME; the run then goes on from its last checkpoint",
            retry=Retry.LATER,
        ) from error


def workflow_folder(home: Path, workflow: str) -> Path:
    """Where a workflow's checkpoints and history lie. Raises WorkflowError (E0106) for a name that
    is none and might leave `home`."""
    if _WORKFLOW.fullmatch(workflow) is None:
        raise WorkflowError(
            f"'{workflow}' cannot name a workflow: small letters, digits, '_' and '-', "
            "beginning with a letter, at most 63",
            code="E0106",
            help="give the workflow a name of this kind",
        )
    return home / workflow


def make_state_folder(folder: Path) -> None:
    """Make a workflow's folder. Raises SystemError_ (E0604) where a file is in its way, E0602
    without the right."""
    for part in reversed((folder, *folder.parents)):
        if os.path.exists(part) and not os.path.isdir(part):
            raise SystemError_(
                f"the state of the workflow cannot be kept in {folder}: {part} is not a folder",
                code="E0604",
                help="move it away, or set DATAFLARE_HOME to another folder",
            )
    with writing("the workflow's folder"):
        make_folder(folder)
        if folder.stat().st_mode & 0o077:
            folder.chmod(0o700)


def check_step(step: str) -> str:
    """The step's name, if it can name a folder. Raises WorkflowError (E0106)."""
    if _STEP.fullmatch(step) is None or len(step) > 200:
        raise WorkflowError(
            f"'{step}' cannot name a step: letters, digits, '_' and '-', not beginning with a digit",
            code="E0106",
            help="give the step a name of this kind",
        )
    return step
