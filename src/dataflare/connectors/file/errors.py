"""Convert errors of the operating system about files into DataFlare's errors. The file connector
converts them only here."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataflare.errors import DataError, DataFlareError, Retry, SystemError_, did_you_mean
from dataflare.formats.any_file import AnyFile


def missing(path: Path) -> SystemError_:
    """No such file, with the nearest name in its folder."""
    folder = path.parent
    if path.is_symlink():
        return SystemError_(
            f"no such file: {path}",
            code="E0601",
            help=f"{path.name} is a link to {os.readlink(path)}, which leads nowhere",
        )
    try:
        names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else None
    except OSError:
        names = []
    help_: str | None
    if names is None:
        help_ = f"the folder {folder} does not exist either"
    else:
        help_ = did_you_mean(path.name, names)
        if help_ is None and names:
            few = ", ".join(n for n in names if not n.startswith("."))
            help_ = f"{folder} has: {few[:200]}" if few else None
    return SystemError_(f"no such file: {path}", code="E0601", help=help_)


def translated(error: BaseException, path: AnyFile, doing: str) -> DataFlareError:
    """DataFlare's error for another exception. doing: "reading" or "writing"."""
    if isinstance(error, DataFlareError):
        return error
    if isinstance(error, OSError):
        match error.errno:
            case errno.ENOENT if isinstance(path, Path):
                return missing(path)
            case errno.EACCES | errno.EPERM | errno.EROFS:
                why = "read-only file system" if error.errno == errno.EROFS else "permission denied"
                return SystemError_(
                    f"{why}: {path}", code="E0602", help=f"{doing} it needs other rights"
                )
            case errno.ENOSPC | errno.EDQUOT:
                return SystemError_(
                    f"disk full while {doing} {path}",
                    code="E0603",
                    help="free some space and run again: the run continues from the last checkpoint",
                    retry=Retry.LATER,
                )
            case errno.EISDIR | errno.ENOTDIR:
                return SystemError_(
                    f"{path}: {error.strerror}",
                    code="E0604",
                    help="choose another path, or move the file at this path away",
                )
            case errno.ENAMETOOLONG:
                return SystemError_(
                    f"a name is too long for the file system: {path}",
                    code="E0605",
                    help="one name may have 255 bytes, a path 4,096; escaped characters count as three",
                )
            case errno.EILSEQ | errno.EINVAL:
                return SystemError_(
                    f"the file system does not take this name: {path}",
                    code="E0604",
                    help="choose another name",
                )
        return SystemError_(
            f"{doing} {path} failed: {error.strerror or error}",
            code="E0600",
            retry=Retry.LATER,
            help="see whether the disk and the folder are there, and run again",
        )
    lines = str(error).strip().splitlines()
    message = lines[0].rpartition("out of specification: ")[2] if lines else type(error).__name__
    return DataError(
        f"{path} cannot be read: {message}",
        code="E0505",
        help="if it is whole, set 'format' to what it holds; if not, fetch it again",
    )


@contextmanager
def file_errors(path: AnyFile, doing: str = "reading") -> Iterator[None]:
    """Whatever goes wrong inside becomes a DataFlareError.

    Polars panics where a file has what its Rust code does not expect; such an exception is not an
    Exception in Python, so it is caught by its own name.
    """
    import polars as pl

    try:
        yield
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise translated(error, path, doing) from error
