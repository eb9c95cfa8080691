"""List the files that a URL names: a file, what is below a folder, a glob.

Always true: the order is that of the paths; names are left out by the rules of folders of this machine.
"""

from __future__ import annotations

import glob

from dataflare.connectors.file.names import UNPUBLISHED, FoundFile, fits, format_of, is_hidden
from dataflare.errors import SystemError_
from dataflare.sdk.context import ConnectorContext
from dataflare.sdk.stores.options import StorageOptions
from dataflare.sdk.stores.store import FileInfo, Store, open_store, replaced
from dataflare.sdk.stores.stored_file import RemoteFile


def list_remote(
    pattern: str, options: StorageOptions, context: ConnectorContext, format_: str
) -> list[FoundFile]:
    """Raises SystemError_ (E0601) if there is no such file."""
    store, path = open_store(pattern, options, context.step)
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


def _found(store: Store, info: FileInfo, folders: tuple[str, ...]) -> FoundFile:
    file = RemoteFile(store, info)
    return FoundFile(file, file.url, info.size, info.mtime_ns, folders, info.etag)


def _matching(pattern: str, store: Store, path: str) -> list[FoundFile]:
    parts = tuple(path.split("/"))
    plain = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    root = "".join(f"{part}/" for part in parts[:plain])
    listed = list(store.list(root))
    files = []
    for info in listed:
        names = tuple(info.path[len(root) :].split("/"))
        if fits(names, parts[plain:]):
            files.append(_found(store, info, names[:-1]))
    if not files:
        raise SystemError_(
            f"no file matches {pattern}",
            code="E0601",
            help=f"looked at {len(listed):,} files in {store.url(root)}",
        )
    return files


def _in_folder(pattern: str, store: Store, path: str, format_: str) -> list[FoundFile]:
    root = f"{path.rstrip('/')}/" if path else ""
    files = []
    is_empty = True
    for info in store.list(root):
        is_empty = False
        names = tuple(info.path[len(root) :].split("/"))
        if any(is_hidden(name) for name in names) or names[-1].endswith(UNPUBLISHED):
            continue
        if format_ != "auto" or format_of(info.path) is not None:
            files.append(_found(store, info, names[:-1]))
    if not files:
        what = "no such file" if is_empty else "no files of a known format in"
        raise SystemError_(
            f"{what}: {pattern}" if is_empty else f"{what} {pattern}",
            code="E0601",
            help="check the name; names are case-sensitive" if is_empty else "set 'format'",
        )
    return files
