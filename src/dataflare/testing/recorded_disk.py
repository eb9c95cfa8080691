"""Derive the states in which a power cut could leave a folder, at every moment of a run.

A `RecordedDisk` watches the calls by which this process makes files and names durable. From these it
derives the folders that a file system may show after a power cut. The idea is from ALICE (Pillai et
al., All File Systems Are Not Created Equal, OSDI 2014), with the weakest guarantees of POSIX:

- the content of a file survives up to its last fsync;
- a name (created, renamed, removed) survives once its folder was fsynced;
- unsynced data may be there, may be missing, or may be there in part.

Always true: each recorded inode is held open while the disk records, so that its number is not reused.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any
from unittest import mock

from msgspec import Struct

from dataflare.sdk import crashpoints

_NAMING = ("replace", "rename", "unlink", "remove", "mkdir", "rmdir", "link", "symlink")
_SIZING = ("truncate", "ftruncate")
_SYNCING = ("fsync", "fdatasync")

Tree = Mapping[str, bytes | None]
"""By path relative to the root: the content of a file, None for a folder."""


class DiskState(Struct, frozen=True):
    """A folder after a power cut. moment: the call before or after which the power was cut. fate: what
    happened to all unsynced data (`lost`, `torn`, or `names only`)."""

    moment: str
    fate: str
    tree: Tree

    @property
    def digest(self) -> bytes:
        """Equal for equal trees."""
        whole = hashlib.blake2b(digest_size=16)
        for path in sorted(self.tree):
            content = self.tree[path]
            whole.update(repr((path, content is None)).encode())
            whole.update(hashlib.blake2b(content or b"").digest())
        return whole.digest()

    def restore(self, root: Path) -> None:
        """Replace the content of `root` by this state."""
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        for path in sorted(self.tree):
            content = self.tree[path]
            if content is None:
                (root / path).mkdir(exist_ok=True)
            else:
                (root / path).write_bytes(content)

    def __str__(self) -> str:
        return f"power cut {self.moment}, unsynced data {self.fate}"


class _Moment(Struct, frozen=True):
    """The current folder (entries: by path, its inode; contents: by inode), and what is durable of it.

    folders: the inodes of all folders so far. Self-synced files have negative inodes.
    """

    label: str
    entries: Mapping[str, int]
    contents: Mapping[int, bytes | None]
    folders: frozenset[int]
    durable_names: Mapping[int, Mapping[str, int]]
    durable_contents: Mapping[int, bytes]


class RecordedDisk:
    """Records what happens below `root` inside the `with` block.

        with RecordedDisk(root) as disk:
            run(workflow)
        for state in disk.states():
            state.restore(root)
            run(workflow)
            assert contents(root) == expected

    Files that exist when the block begins count as durable. self_synced: patterns of names of files that
    another program writes and syncs (a database's file and its journal). They are recorded as they are
    at the crash points in `settled`, at which no transaction is open.
    """

    def __init__(
        self, root: Path, *, self_synced: Sequence[str] = (), settled: Sequence[str] = ()
    ) -> None:
        self.root = root.resolve()
        self._self_synced, self._settled = tuple(self_synced), frozenset(settled)
        self._lock = threading.RLock()
        self._moments: list[_Moment] = []
        self._held: dict[int, int] = {}
        self._folders: set[int] = set()
        self._names: dict[int, Mapping[str, int]] = {}
        self._contents: dict[int, bytes] = {}
        self._settled_files: dict[str, bytes] = {}
        self._stack = ExitStack()

    def __enter__(self) -> RecordedDisk:
        with ExitStack() as opened:
            opened.callback(self._release)
            entries, contents = self._look()
            self._settle(entries, contents)
            for path, inode in entries.items():
                content = contents[inode]
                if content is None:
                    self._names[inode] = _children(path, entries)
                else:
                    self._contents[inode] = content
            self._remember("at the start")
            for name in (*_NAMING, *_SIZING, *_SYNCING):
                real = getattr(os, name)
                self._stack.enter_context(mock.patch.object(os, name, self._watching(name, real)))
            self._stack.enter_context(crashpoints.observed(self._at_crash_point))
            opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        self._remember("at the end")
        self._release()

    def _release(self) -> None:
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()

    def states(self, *, distinct: bool = True) -> Iterator[DiskState]:
        """Every state in which a power cut could leave the folder, in the order of moments. distinct: each
        state only once, even if several moments and fates lead to it."""
        digests: set[bytes] = set()
        for moment in self._moments:
            for fate, tree in (
                ("lost", _lost(moment)),
                ("torn", _torn(moment)),
                ("names only", _names_only(moment)),
            ):
                state = DiskState(moment.label, fate, tree)
                if distinct:
                    if state.digest in digests:
                        continue
                    digests.add(state.digest)
                yield state

    # -- recording

    def _watching(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            with self._lock:
                call_text = f"{name} {self._path_text(args[0])}" if args else name
                self._remember(f"before {call_text}")
                result = real(*args, **options)
                if name in _SYNCING:
                    self._synced(args[0])
                self._remember(f"after {call_text}")
                return result

        return call

    def _path_text(self, place: Any) -> str:
        path = Path(os.readlink(f"/proc/self/fd/{place}")) if isinstance(place, int) else place
        text = os.fsdecode(path)
        return text.removeprefix(f"{self.root}/")

    def _at_crash_point(self, name: str) -> None:
        with self._lock:
            if name in self._settled:
                self._settle(*self._look())
            self._remember(f"at {name}")

    def _settle(self, entries: Mapping[str, int], contents: Mapping[int, bytes | None]) -> None:
        for path, inode in entries.items():
            content = contents[inode]
            if content is not None and self._is_self_synced(path):
                self._settled_files[path] = content

    def _is_self_synced(self, path: str) -> bool:
        name = path.rpartition("/")[2]
        return any(fnmatch.fnmatch(name, pattern) for pattern in self._self_synced)

    def _synced(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        entries, contents = self._look()
        inode = status.st_ino
        if stat.S_ISDIR(status.st_mode):
            for path, number in entries.items():
                if number == inode:
                    self._names[inode] = _children(path, entries)
        elif inode in contents:
            self._contents[inode] = contents[inode] or b""
        else:
            with open(f"/proc/self/fd/{descriptor}", "rb") as file:
                self._contents[inode] = file.read()

    def _remember(self, label: str) -> None:
        with self._lock:
            entries, contents = self._look()
            for path in [p for p in entries if self._is_self_synced(p)]:
                del entries[path]
            for number, (path, content) in enumerate(sorted(self._settled_files.items()), 1):
                entries[path], contents[-number] = -number, content
            self._moments.append(
                _Moment(
                    label,
                    entries,
                    contents,
                    frozenset(self._folders),
                    dict(self._names),
                    dict(self._contents),
                )
            )

    def _look(self) -> tuple[dict[str, int], dict[int, bytes | None]]:
        """The current folder: by path the inode, and by inode the content. "" is the root."""
        entries: dict[str, int] = {}
        contents: dict[int, bytes | None] = {}
        folders = [""]
        while folders:
            folder = folders.pop()
            place = os.path.join(self.root, folder) if folder else str(self.root)
            entries[folder] = self._hold(place)
            contents[entries[folder]] = None
            self._folders.add(entries[folder])
            for entry in sorted(os.scandir(place), key=lambda each: each.name):
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif entry.is_file(follow_symlinks=False):
                    entries[path] = self._hold(entry.path)
                    contents[entries[path]] = _content(self._held[entries[path]])
        return entries, contents

    def _hold(self, path: str) -> int:
        """The inode of a path. It is held open, so that its number is not reused."""
        inode = os.stat(path, follow_symlinks=False).st_ino
        if inode not in self._held:
            self._held[inode] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return inode


def _content(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, size, 0)


def _children(folder: str, entries: Mapping[str, int]) -> dict[str, int]:
    start = f"{folder}/" if folder else ""
    return {
        path[len(start) :]: inode
        for path, inode in entries.items()
        if path and path.startswith(start) and "/" not in path[len(start) :]
    }


def _lost(moment: _Moment) -> dict[str, bytes | None]:
    """Only synced data survives: names of synced folders, contents of synced files."""
    tree: dict[str, bytes | None] = {}
    folders = [("", moment.entries[""])]
    while folders:
        folder, inode = folders.pop()
        for name, child in moment.durable_names.get(inode, {}).items():
            path = f"{folder}/{name}" if folder else name
            if child in moment.folders:
                tree[path] = None
                folders.append((path, child))
            else:
                tree[path] = moment.durable_contents.get(child, b"")
    return _with_self_synced(tree, moment)


def _names_only(moment: _Moment) -> dict[str, bytes | None]:
    """Every name survives, and only the synced content of each file."""
    return {
        path: None
        if (content := moment.contents[inode]) is None
        else (content if inode < 0 else moment.durable_contents.get(inode, b""))
        for path, inode in moment.entries.items()
        if path
    }


def _torn(moment: _Moment) -> dict[str, bytes | None]:
    """Every name survives. Of unsynced content the first half survives. The rest is zeros, or what was
    synced there before, in a file that was changed in place."""
    tree: dict[str, bytes | None] = {}
    for path, inode in moment.entries.items():
        if not path:
            continue
        content = moment.contents[inode]
        if content is None or inode < 0:
            tree[path] = content
            continue
        durable = moment.durable_contents.get(inode, b"")
        equal_bytes = _equal_bytes(durable, content)
        half = equal_bytes + (len(content) - equal_bytes) // 2
        rest = bytes(len(content) - half)
        if len(durable) == len(content):
            changed = len(content) - _equal_bytes(durable[::-1], content[::-1])
            half = equal_bytes + max(0, changed - equal_bytes) // 2
            rest = durable[half:]
        tree[path] = content[:half] + rest
    return tree


def _equal_bytes(left: bytes, right: bytes) -> int:
    """The number of equal bytes at the beginning."""
    if right.startswith(left):
        return len(left)
    pairs = enumerate(zip(left, right, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(left), len(right)))


def _with_self_synced(tree: dict[str, bytes | None], moment: _Moment) -> dict[str, bytes | None]:
    for path, inode in moment.entries.items():
        if inode < 0:
            parts = path.split("/")[:-1]
            for number in range(1, len(parts) + 1):
                tree.setdefault("/".join(parts[:number]), None)
            tree[path] = moment.contents[inode]
    return tree
