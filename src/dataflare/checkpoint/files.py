"""Write files atomically and durably: each is complete or absent, and survives a power cut.

Always true:
- a reader sees the old content or the new one; an error leaves no partial file;
- files are created with mode 0600 and folders with 0700, whatever the umask, unless the caller passes
  another mode.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

import xxhash

from dataflare.errors import Retry, SystemError_, WorkflowError
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.durable_files import open_private as open_private
from dataflare.sdk.durable_files import sync_folder as sync_folder

TEMPORARY = ".tmp-"
"""Names of files that are still being written begin with this."""

_WORKFLOW = re.compile(r"[a-z][a-z0-9_-]{0,62}", re.ASCII)
_STEP = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*", re.ASCII)
_STEP_MAX = 200
_NO_RIGHT = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_whole(
    path: Path,
    data: bytes,
    *,
    crash: str | None = None,
    durable: bool = True,
    name_durable: bool = True,
    mode: int = 0o600,
    is_new: bool = False,
) -> None:
    """Write `data` to `path` atomically: a temporary file, fsync, rename, fsync of the folder. is_new: raise FileExistsError, and
    change nothing, where the file is there, also if another process writes it at the same time.

    durable: False for what is only shown: no fsync at all, so a power cut may lose it or leave it empty. crash: the prefix of the crash points `.before_rename` and `.after_rename`. name_durable: False
    if the caller syncs the folder later. mode: the file's permissions. Raises OSError.
    """
    write_parts(
        path,
        (data,),
        crash=crash,
        durable=durable,
        name_durable=name_durable,
        mode=mode,
        is_new=is_new,
    )


def write_parts(
    path: Path,
    parts: Iterable[bytes],
    *,
    crash: str | None = None,
    durable: bool = True,
    name_durable: bool = True,
    mode: int = 0o600,
    is_new: bool = False,
) -> None:
    """As `write_whole`, with a content that comes in parts."""
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with open_private(temporary, mode=mode) as file:
            for part in parts:
                file.write(part)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        if crash:
            crash_point(f"{crash}.before_rename")
        if is_new:
            os.link(temporary, path)
            temporary.unlink()
        else:
            temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if crash:
        crash_point(f"{crash}.after_rename")
    if durable and name_durable:
        sync_folder(path.parent)


def remove_temporaries(folder: Path) -> None:
    """Remove the partial files of killed writers. Call it only while no process writes there."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.name.startswith(TEMPORARY):
                path.unlink(missing_ok=True)


def make_folder(folder: Path, *, private: bool = True) -> Path:
    """Create a folder and its parents durably, unless they exist; returns the folder. private: only the
    owner gets permissions; otherwise the umask decides."""
    if folder.is_dir():
        return folder
    parent = make_folder(folder.parent, private=private)
    folder.mkdir(exist_ok=True)
    if private:
        folder.chmod(0o700)
    sync_folder(parent)
    return folder


@contextlib.contextmanager
def writing(subject: str, *, intact: Callable[[], str] | None = None) -> Iterator[None]:
    """Convert an OSError to a SystemError_: E0603 for a full disk, E0602 for missing rights, else E0600.

    subject: what is written, such as "a checkpoint". intact: called when the disk is full; returns the
    part of the message that says what is still usable.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno not in _NO_ROOM:
            where = f" {error.filename}" if error.filename else ""
            code = "E0602" if error.errno in _NO_RIGHT else "E0600"
            raise SystemError_(
                f"cannot write {subject}{where}: {reason}",
                code=code,
                help="set DATAFLARE_HOME to a folder that you may write to; state is stored there"
                if code == "E0602"
                else "state is stored in the folder that DATAFLARE_HOME names",
            ) from error
        raise SystemError_(
            f"disk full while writing {subject}" + (f"; {intact()}" if intact else ""),
            code="E0603",
            notes=[reason],
            help="make room on the disk of DATAFLARE_HOME and run again; the run resumes from its last checkpoint",
            retry=Retry.LATER,
        ) from error


def workflow_folder(home: Path, workflow: str) -> Path:
    """The folder of a workflow's checkpoints and history. Raises WorkflowError (E0106) for an invalid
    name, which could lead outside of `home`."""
    if _WORKFLOW.fullmatch(workflow) is None:
        raise WorkflowError(
            f"'{workflow}' cannot name a workflow: small letters, digits, '_' and '-', "
            "beginning with a letter, at most 63",
            code="E0106",
            help="give the workflow a name of this kind",
        )
    return home / workflow


def make_state_folder(folder: Path) -> None:
    """Create a workflow's folder. Raises SystemError_: E0604 if there is a file in its place, E0602
    without permission."""
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
    """Return the name of a folder for a step: its own, with other characters of a table's name as %XX, and the
    rest of a long table name as its checksum. Raises WorkflowError (E0106)."""
    name, dot, table = step.partition(".")
    if dot:
        table = quote(table, safe="._-")
    whole = f"{name}{dot}{table}"
    if len(whole) > _STEP_MAX and table:
        checksum = xxhash.xxh3_64_hexdigest(whole.encode())
        whole = f"{whole[: _STEP_MAX - len(checksum) - 1]}%{checksum}"
    if _STEP.fullmatch(name) is None or len(name) > _STEP_MAX:
        raise WorkflowError(
            f"'{step}' cannot name a step: letters, digits, '_' and '-', not beginning with a digit",
            code="E0106",
            help="give the step a name of this kind",
        )
    return whole
