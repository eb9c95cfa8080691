"""List the files of a path: a file, a folder, a glob, or a list of those.

Always true: the order is the same on every machine. Names that begin with `.` or `_`, and those
that end in `.inprogress`, are skipped in folders and by `*`; they are read if `path` names them, or
has a pattern that begins with the same character, such as `_*.csv`.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from dataflare.connectors.file.errors import file_errors, missing
from dataflare.connectors.file.lake_tables import LakeTable, LocalTables, refuse_tables
from dataflare.connectors.file.names import (
    UNPUBLISHED,
    FoundFile,
    fits,
    format_of,
    is_hidden,
)
from dataflare.errors import ConfigError, SystemError_
from dataflare.formats.any_file import AnyFile
from dataflare.sdk.context import ConnectorContext, has_scheme
from dataflare.sdk.stores.options import FROM_ENVIRONMENT, StorageOptions


def list_files(
    patterns: Sequence[str],
    context: ConnectorContext,
    format_: str,
    storage: StorageOptions | None = None,
    only: Mapping[str, Collection[str]] | None = None,
) -> list[FoundFile]:
    """All files of the patterns without duplicates, in the order of the patterns, sorted within
    each. only: by store, the paths that are checked; None: all that are there."""
    files: dict[AnyFile, FoundFile] = {}
    tables = LocalTables()
    for pattern in patterns:
        if has_scheme(pattern):
            from dataflare.connectors.file.remote_listing import list_remote

            for file in list_remote(pattern, storage or FROM_ENVIRONMENT, context, format_, only):
                files.setdefault(file.path, file)
            continue
        for path, root in _expand(pattern, context, format_):
            if path not in files:
                files[path] = _look(path, root, context, tables)
    return list(files.values())


def would_list(pattern: str, file: str, context: ConnectorContext, format_: str) -> bool:
    """Whether `list_files` would find a file at this path, with links resolved, if there were one."""
    if has_scheme(pattern):
        return False
    path = context.path(pattern)
    if glob.has_magic(pattern) and not path.exists():
        root = _root_of(path)
        parts = path.relative_to(root).parts
        relative = Path(os.path.relpath(file, os.path.realpath(root)))
        return fits(relative.parts, parts)
    real = os.path.realpath(path)
    if real == file:
        return True
    relative = Path(os.path.relpath(file, real))
    has_format = format_ != "auto" or format_of(relative) is not None
    return relative.parts[0] != ".." and has_format and not _hidden(relative)


def _root_of(path: Path) -> Path:
    """The deepest folder of a glob without a pattern character in its path."""
    while any(glob.has_magic(part) for part in path.parts):
        path = path.parent
    return path


def _look(
    path: Path, root: Path | None, context: ConnectorContext, tables: LocalTables
) -> FoundFile:
    context.policy.check_path(path, context.step)
    with file_errors(path):
        status = path.stat()
    id_ = _id_of(path, context)
    if root is None:
        return FoundFile(path, id_, status.st_size, status.st_mtime_ns)
    folders, above = path.parent.relative_to(root).parts, tables.above(path, root)
    table = None if above is None else LakeTable(above[0], _id_of(above[1], context))
    return FoundFile(path, id_, status.st_size, status.st_mtime_ns, folders, table=table)


def _id_of(path: Path, context: ConnectorContext) -> str:
    base = context.base.absolute()
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.as_posix()


def _expand(
    pattern: str, context: ConnectorContext, format_: str
) -> Iterable[tuple[Path, Path | None]]:
    path = context.path(pattern)
    with file_errors(path):
        if path.is_dir():
            return [(file, path) for file in _in_folder(path, format_)]
        if path.exists():
            return [(path, None)]
    if not glob.has_magic(pattern):
        raise missing(path)
    return _matching(pattern, path, context)


def _matching(
    pattern: str, path: Path, context: ConnectorContext
) -> list[tuple[Path, Path | None]]:
    root = _root_of(path)
    names = glob.glob(str(path), recursive=True)
    patterns, start = path.relative_to(root).parts, len(str(root).rstrip(os.sep)) + 1
    matches = [name for name in names if fits(tuple(name[start:].split(os.sep)), patterns)]
    files = sorted(Path(name) for name in matches if os.path.isfile(name))
    if not files:
        help_ = f"looked in {root}"
        if len(names) > len(matches):
            help_ += (
                "; names that begin with '_' or '.' are passed over: begin the pattern with that "
                "character to read them"
            )
        raise SystemError_(f"no file matches {pattern}", code="E0601", help=help_)
    return [(file, root) for file in files]


def _hidden(relative: Path) -> bool:
    return relative.name.endswith(UNPUBLISHED) or any(is_hidden(part) for part in relative.parts)


def _in_folder(folder: Path, format_: str) -> list[Path]:
    """Data files of a folder and its subfolders. With `auto`, those with the extension of a
    format."""
    files = sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder, onerror=_raise)
        for name in names
        if not _hidden(Path(parent, name).relative_to(folder))
    )
    data_files = [file for file in files if format_ != "auto" or format_of(file) is not None]
    if not data_files:
        problem = "has no files" if not files else "has no files of a known format"
        raise SystemError_(
            f"the folder {folder} {problem}",
            code="E0601",
            help="set 'format' if their names do not say it"
            if files
            else "put files there, or choose another path",
        )
    return data_files


def _raise(error: OSError) -> None:
    raise error


def one_format(files: Sequence[FoundFile], format_: str) -> str:
    """The format of all the files. Raises ConfigError (E0403) if the names have no known extension
    or several, or one that is part of a table of a lake."""
    refuse_tables(files)
    if format_ != "auto":
        return format_
    kinds = {format_of(file.path) for file in files}
    if kinds == {None} or None in kinds:
        unknown = next(file.path for file in files if format_of(file.path) is None)
        raise ConfigError(
            f"the name of {unknown.name} does not say its format",
            code="E0403",
            help="set 'format' to one of: csv, ndjson, json, parquet, arrow, excel",
        )
    if len(kinds) > 1:
        names = ", ".join(sorted(kind for kind in kinds if kind))
        raise ConfigError(
            f"the files have different formats: {names}",
            code="E0403",
            help="read them in a source each, or narrow the glob",
        )
    return next(kind for kind in kinds if kind)
