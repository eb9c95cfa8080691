"""Savepoints: checkpoints with a name, which are kept until a user deletes them.

    <storage>/<workflow>/savepoints/<name>/manifest.json   current.json
                                          chunks/   redo/<step>/      as in a lineage's folder

Always true:
- a savepoint is complete or absent: its folder is renamed when all of it is durable;
- its files belong to it alone (links or copies), so no collection of checkpoints touches them.

The code blocks.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

from msgspec import Struct

from dataflare.checkpoint import files, resolve
from dataflare.checkpoint.manifest import Damaged, Manifest
from dataflare.checkpoint.runs import Current, read_current, write_current
from dataflare.checkpoint.store import LocalStore
from dataflare.errors import Blame, CheckpointError, RunError, did_you_mean
from dataflare.sdk.crashpoints import crash_point

FOLDER = "savepoints"
_MANIFEST, _CURRENT = "manifest.json", "current.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)


class Savepoint(Struct, frozen=True):
    """store: reads its chunks."""

    name: str
    manifest: Manifest
    store: LocalStore


class Savepoints:
    """The savepoints of a workflow. folder: where its checkpoints are stored."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER

    def names(self) -> list[str]:
        """In the order in which they were taken."""
        try:
            found = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]
        except OSError:
            return []
        return [p.name for p in sorted(found, key=lambda p: (p.stat().st_mtime_ns, p.name))]

    def take(self, name: str, manifest: Manifest, store: LocalStore, current: Current) -> None:
        """Keep a checkpoint of `store` under a name. current: what a run would continue. Raises RunError (E0809) if the name is taken or cannot
        name a savepoint, CheckpointError (E0701) if a chunk is missing or changed."""
        self.check_free(name)
        for chunk in manifest.chunks.values():
            problem = store.verify_chunk(chunk)
            if problem is not None:
                raise CheckpointError(
                    f"checkpoint {manifest.epoch} cannot be kept: {problem}",
                    code="E0701",
                    help="restore the file from a backup, or take the savepoint of another checkpoint",
                )
        with files.writing("a savepoint"):
            temporary = files.make_folder(self.folder) / f"{files.TEMPORARY}{os.getpid()}-{name}"
            shutil.rmtree(temporary, ignore_errors=True)
            _copy_files(manifest, store.home, temporary)
            files.write_whole(temporary / _MANIFEST, manifest.to_text().encode("ascii"))
            write_current(temporary / _CURRENT, current, name)
            crash_point("savepoint.before_rename")
            temporary.rename(self.folder / name)
            files.sync_folder(self.folder)

    def read(self, name: str) -> Savepoint:
        """Raises RunError (E0809) if there is none of this name, CheckpointError (E0701) for a damaged one."""
        folder = self.folder / name
        if _NAME.fullmatch(name) is None or not folder.is_dir():
            names = self.names()
            raise RunError(
                f"there is no savepoint '{name}'",
                code="E0809",
                blame=Blame.USER,
                notes=[f"savepoints: {', '.join(names) or 'none'}"],
                help=did_you_mean(name, names)
                or "take one with `dataflare savepoint WORKFLOW NAME`",
            )
        try:
            manifest = Manifest.from_text((folder / _MANIFEST).read_bytes().decode("ascii"))
        except (OSError, UnicodeDecodeError, Damaged) as error:
            problem = error.problem if isinstance(error, Damaged) else str(error)
            raise CheckpointError(
                f"savepoint '{name}' cannot be read: {problem}",
                code="E0701",
                help="restore its folder from a backup, or use another savepoint",
            ) from error
        return Savepoint(name, manifest, LocalStore.at(folder, manifest.lineage))

    def current(self, name: str) -> Current:
        """What a run would have continued when the savepoint was taken. Raises CheckpointError (E0701)."""
        current = read_current(self.folder / name / _CURRENT, name)
        if current is None:
            raise CheckpointError(
                f"savepoint '{name}' cannot be read: {_CURRENT} is missing",
                code="E0701",
                help="restore its folder from a backup, or use another savepoint",
            )
        return current

    def problem(self, name: str) -> str | None:
        """What is wrong with a savepoint, after all of it was read; None if nothing is."""
        try:
            savepoint = self.read(name)
            self.current(name)
        except CheckpointError as error:
            return error.message
        chunks = savepoint.manifest.chunks.values()
        return next(filter(None, map(savepoint.store.verify_chunk, chunks)), None)

    def num_bytes(self, name: str) -> int:
        """The size of its files."""
        return sum(p.stat().st_size for p in (self.folder / name).rglob("*") if p.is_file())

    def delete(self, name: str) -> int:
        """Delete a savepoint; returns its size."""
        self.read_or_damaged(name)
        num_bytes = self.num_bytes(name)
        doomed = self.folder / f"{files.TEMPORARY}deleted-{name}"
        (self.folder / name).rename(doomed)
        shutil.rmtree(doomed)
        return num_bytes

    def read_or_damaged(self, name: str) -> None:
        """Raise RunError (E0809) if there is no savepoint of this name."""
        with contextlib.suppress(CheckpointError):
            self.read(name)

    def put_files_back(self, savepoint: Savepoint, store: LocalStore) -> None:
        """Give the chunks and redo files of a savepoint to the store of its lineage."""
        with files.writing("a checkpoint"):
            _copy_files(savepoint.manifest, savepoint.store.home, store.home)

    def check_free(self, name: str) -> None:
        """Raise RunError (E0809) if a savepoint cannot have this name, or there is one."""
        if _NAME.fullmatch(name) is None:
            raise RunError(
                f"'{name}' cannot name a savepoint",
                code="E0809",
                blame=Blame.USER,
                help="letters, digits, '_', '-' and '.', beginning with a letter or digit, at most 63",
            )
        if (self.folder / name).exists():
            raise RunError(
                f"there is a savepoint '{name}' already",
                code="E0809",
                blame=Blame.USER,
                help="choose another name, or delete that one: dataflare checkpoints delete WORKFLOW NAME",
            )


def _copy_files(manifest: Manifest, source: Path, target: Path) -> None:
    """Copy what a manifest refers to, from one lineage's folder to another. What is there stays."""
    names = [f"chunks/{name}" for name in manifest.chunks]
    names += [name for name in resolve.redo_names(manifest) if (source / name).is_file()]
    folders = {files.make_folder(target)}
    for name in names:
        path = target / name
        if path.exists():
            continue
        folders.add(files.make_folder(path.parent))
        try:
            os.link(source / name, path)
        except OSError:
            # Another file system, or one without links.
            files.write_whole(path, (source / name).read_bytes(), name_durable=False)
    for folder in folders:
        files.sync_folder(folder)
