"""Names of files: the format that a name promises, names that are passed over, names that a glob matches."""

from __future__ import annotations

import fnmatch
from pathlib import Path

from msgspec import Struct

from dataflare.connectors.file.lake_tables import LakeTable
from dataflare.formats.any_file import AnyFile
from dataflare.formats.compression import split_extension

FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".txt": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
    ".xlsx": "excel",
    ".xls": "excel",
    ".xlsb": "excel",
    ".ods": "excel",
}
UNPUBLISHED = ".inprogress"


class FoundFile(Struct, frozen=True):
    """id: the path relative to the workflow's folder, or the URL; the same in every listing. folders: the
    names of the folders between the folder or glob root that it was found in and the file. etag: of a
    file that is not on this machine, where its store has one. table: that of a lake which the file is part of."""

    path: AnyFile
    id: str
    size: int
    mtime_ns: int
    folders: tuple[str, ...] = ()
    etag: str | None = None
    table: LakeTable | None = None


def format_of(file: AnyFile | str) -> str | None:
    """The format that a file's name promises, or None."""
    named = Path(file) if isinstance(file, str) else file
    return FORMATS.get(split_extension(named)[0])


def fits(names: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    """Whether a relative path matches a glob; `**` matches any number of folders."""
    if not patterns or not names:
        return not names and not [p for p in patterns if p != "**"]
    if patterns[0] == "**":
        rest = not is_hidden(names[0]) and fits(names[1:], patterns)
        return rest or fits(names, patterns[1:])
    first = names[0]
    if first.endswith(UNPUBLISHED) or (first[0] in "._" and first[0] != patterns[0][0]):
        return False
    return fnmatch.fnmatchcase(first, patterns[0]) and fits(names[1:], patterns[1:])


def is_hidden(name: str) -> bool:
    return name.startswith((".", "_"))
