"""List the files that a URL names: a file, what is below a folder, a glob.

Always true: the order is that of the paths; names are left out by the rules of folders of this machine.
"""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterator, Mapping

from dataflare.connectors.file.lake_tables import StoredTables
from dataflare.connectors.file.names import UNPUBLISHED, FoundFile, fits, format_of, is_hidden
from dataflare.errors import SystemError_
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.stores.options import StorageOptions
from dataflare.sdk.stores.store import FileInfo, Store, open_store, replaced
from dataflare.sdk.stores.stored_file import RemoteFile


def list_remote(
    pattern: str,
    options: StorageOptions,
    context: ConnectorContext,
    format_: str,
    only: Mapping[str, Collection[str]] | None = None,
) -> list[FoundFile]:
    """only: by store, the paths that are checked; None: all that are there. Raises SystemError_ (E0601) if there is no such
    file."""
    store, path = open_store(pattern, options, context.step)
    if only is not None:
        store = Told(store, only.get(store.root, ()))
    if path and not path.endswith("/"):
        info = store.look(path)
        if info is not None:
            return [_found(store, info, ())]
    if not store.lists:
        raise SystemError_(
            f"no such file: {pattern}",
            code="E0601",
            help=f"{store.root} cannot list its files: name each file in 'path'",
        )
    if glob.has_magic(path):
        return _matching(pattern, store, path)
    return _in_folder(pattern, store, path, format_)


class Told(Store):
    """Some files of a store."""

    def __init__(self, store: Store, paths: Collection[str]) -> None:
        super().__init__(store.root)
        self._store, self._paths = store, paths

    def list(self, folder: str) -> Iterator[FileInfo]:
        for path in sorted(self._paths):
            found = self._store.look(path) if path.startswith(folder) else None
            if found is not None:
                yield found

    def look(self, path: str) -> FileInfo | None:
        return self._store.look(path) if path in self._paths else None

    def read(self, file: FileInfo, start: int, end: int) -> bytes:
        return self._store.read(file, start, end)


def open_remote(
    url: str, size: int, mtime_ns: int, etag: str | None, options: StorageOptions, step: str
) -> RemoteFile:
    """A file that was listed before."""
    store, path = open_store(url, options, step)
    return RemoteFile(store, FileInfo(path, size, mtime_ns, etag))


def current(file: RemoteFile) -> RemoteFile:
    """The file as it is now. Raises CheckpointError (E0703) if it is gone."""
    now = file.now()
    if now is None:
        raise replaced(file.url, "it is gone")
    return now


def _found(
    store: Store, info: FileInfo, folders: tuple[str, ...], tables: StoredTables | None = None
) -> FoundFile:
    file = RemoteFile(store, info)
    table = None if tables is None else tables.of(info.path)
    return FoundFile(file, file.url, info.size, info.mtime_ns, folders, info.etag, table)


def _matching(pattern: str, store: Store, path: str) -> list[FoundFile]:
    parts = tuple(path.split("/"))
    plain = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    root = "".join(f"{part}/" for part in parts[:plain])
    listed = list(store.list(root))
    tables = StoredTables(store, root, [info.path for info in listed])
    files = []
    for info in listed:
        names = tuple(info.path[len(root) :].split("/"))
        if fits(names, parts[plain:]):
            files.append(_found(store, info, names[:-1], tables))
    if not files:
        raise SystemError_(
            f"no file matches {pattern}",
            code="E0601",
            help=f"looked at {len(listed):,} files in {store.url(root)}",
        )
    return files


def _in_folder(pattern: str, store: Store, path: str, format_: str) -> list[FoundFile]:
    root = f"{path.rstrip('/')}/" if path else ""
    listed = list(store.list(root))
    tables = StoredTables(store, root, [info.path for info in listed])
    files, is_empty = [], not listed
    for info in listed:
        names = tuple(info.path[len(root) :].split("/"))
        if any(is_hidden(name) for name in names) or names[-1].endswith(UNPUBLISHED):
            continue
        if format_ != "auto" or format_of(info.path) is not None:
            files.append(_found(store, info, names[:-1], tables))
    if not files:
        what = "no such file" if is_empty else "no files of a known format in"
        raise SystemError_(
            f"{what}: {pattern}" if is_empty else f"{what} {pattern}",
            code="E0601",
            help="check the name; names are case-sensitive" if is_empty else "set 'format'",
        )
    return files
