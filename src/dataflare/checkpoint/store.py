"""Store a lineage's checkpoints in a folder.

    <home>/<workflow>/
       lock   current.json   runs/          see `lock` and `runs`
       <lineage8>/manifest-<epoch>.json     a checkpoint exists if this file exists
       <lineage8>/chunks/<name>             operator state, immutable
       <lineage8>/redo/<step>/...           written by destinations

Always true:
- a manifest's name appears after every file that it refers to is on disk;
- a damaged file is reported as a fact and not as an exception; `resolve` decides;
- files that a retained manifest refers to are not deleted, and chunks for the next manifest are not.

The code blocks; the engine calls it on its thread pool. There is one instance per run and process.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import xxhash
from msgspec import Struct

from dataflare.checkpoint import files, resolve
from dataflare.checkpoint.chunk_content import bad_chunk, decoded_chunk, encoded_chunk
from dataflare.checkpoint.manifest import Damaged, Manifest, StateChunk
from dataflare.checkpoint.resolve import ManifestFact
from dataflare.errors import InternalError
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import Committable, Marker

if TYPE_CHECKING:
    import polars as pl

_LINEAGE = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]+)*", re.ASCII)
_LINEAGE_FOLDER = re.compile(r"[0-9a-f]{8}", re.ASCII)
_CHUNK_ATTEMPT = re.compile(r"-a([0-9]+)-[0-9]{10}-[0-9]+\.arrow$", re.ASCII)
_BLOCK = 1 << 20


class StoreSizes(Struct, frozen=True):
    """The bytes that a lineage occupies, to show to the user."""

    manifests: int
    chunks: int
    redo: int
    last_manifest: int | None

    @property
    def total(self) -> int:
        return self.manifests + self.chunks + self.redo


class Storage(Protocol):
    """A store of a lineage's checkpoints. All calls block. `RunOptions.storage` makes it for a run."""

    lineage: str

    @property
    def scratch(self) -> Path:
        """A folder for files that a run needs only while it lives."""

    def publish(self, manifest: Manifest) -> None:
        """Make the checkpoint exist, durably and atomically."""

    def list_manifests(self, *, thorough: bool = False) -> list[ManifestFact]:
        """All checkpoints, newest first, with damaged ones. State chunks are verified down to the newest
        complete checkpoint; thorough: those of all checkpoints."""

    def judge(self, markers: Mapping[str, Marker | None]) -> dict[str, ManifestFact]:
        """The manifests that destinations store beside their rows, checked against this store."""

    def has_parts(self, manifest: Manifest) -> bool:
        """Whether every chunk of a manifest is here and complete."""

    def write_chunk(
        self, name: str, frame: pl.DataFrame, key_groups: tuple[int, int] | None = None
    ) -> StateChunk:
        """Write state under a new name. It is durable once a manifest with it is published."""

    def read_chunk(self, chunk: StateChunk) -> pl.DataFrame:
        """The rows of a chunk. Raises CheckpointError (E0701) if it is missing or changed."""

    def release_chunk(self, name: str) -> None:
        """Allow `collect` to delete a chunk of this run to which no manifest will refer, because it was
        merged into another."""

    def redo_folder(self, step: str) -> Path:
        """The folder for a destination's redo files. It is created if needed."""

    @property
    def puts_redo(self) -> bool:
        """Whether `put_redo` is needed: redo files are seen by this machine only."""

    def put_redo(self, step: str, committable: Committable) -> None:
        """Let other machines read the redo files of what a writer has prepared. Called before its share is given."""

    def rewind(self, epoch: int) -> None:
        """Delete the manifests after `epoch` (0: all) and temporary files. Called at each start, before
        the run writes anything."""

    def collect(self, retain: int = 3) -> int:
        """Delete files that no resume can need. Returns how many were deleted."""

    def clear(self) -> None:
        """Delete the workflow's state, for `--fresh`. The run history is kept."""


def chunk_attempt(name: str) -> int | None:
    """The attempt in a chunk's name, or None."""
    match = _CHUNK_ATTEMPT.search(name)
    return int(match[1]) if match else None


def chunk_name(step: str, subtask: int, attempt: int, epoch: int, number: int) -> str:
    """A chunk name that no other attempt uses."""
    return f"{files.check_step(step)}-{subtask}-a{attempt}-{epoch:010d}-{number}.arrow"


class LocalStore:
    """`Storage` in a workflow's folder on a local file system. lineage: UUID text."""

    def __init__(self, folder: Path, lineage: str) -> None:
        if _LINEAGE.fullmatch(lineage) is None:
            raise InternalError(f"'{lineage}' is not a lineage")
        self.folder = folder
        self.lineage = lineage
        self.home = folder / lineage.replace("-", "")[:8]
        self._unpublished: set[str] = set()
        self._lock = threading.Lock()

    @classmethod
    def at(cls, home: Path, lineage: str) -> LocalStore:
        """A store whose files are in this folder itself, as those of a savepoint."""
        store = cls(home.parent, lineage)
        store.home = home
        return store

    def publish(self, manifest: Manifest) -> None:
        if manifest.lineage != self.lineage:
            raise InternalError(
                f"a manifest of lineage {manifest.lineage} was given to the store of {self.lineage}"
            )
        text = manifest.to_text()
        crash_point("checkpoint.before_publish")
        with files.writing("a checkpoint", intact=self._intact):
            files.make_folder(self.home)
            for subfolder in (self._chunks, *self._redo_folders()):
                if subfolder.is_dir():
                    files.sync_folder(subfolder)
            path = self.home / resolve.manifest_name(manifest.epoch)
            self._write_manifest(path, text.encode("ascii"))
        with self._lock:
            self._unpublished -= manifest.chunks.keys()

    def _write_manifest(self, path: Path, data: bytes) -> None:
        files.write_whole(path, data, crash="checkpoint")

    def list_manifests(self, *, thorough: bool = False) -> list[ManifestFact]:
        facts: list[ManifestFact] = []
        whole = False
        checked: dict[StateChunk, str | None] = {}
        for epoch in self._epochs():
            fact = self._read(epoch)
            if fact.manifest is not None and (thorough or not whole):
                fact = self._with_chunks(fact.manifest, checked)
                whole = whole or fact.usable
            facts.append(fact)
        return facts

    def judge(self, markers: Mapping[str, Marker | None]) -> dict[str, ManifestFact]:
        facts = {}
        for step, marker in markers.items():
            if marker is None:
                continue
            fact = resolve.judge_marker(marker)
            manifest = fact.manifest
            if manifest is not None:
                problem = self._misplaced(manifest, marker.epoch)
                fact = (
                    ManifestFact(marker.epoch, None, problem, False)
                    if problem
                    else self._with_chunks(manifest, {})
                )
            facts[step] = fact
        return facts

    def has_parts(self, manifest: Manifest) -> bool:
        return self._with_chunks(manifest, {}).usable

    def write_chunk(
        self, name: str, frame: pl.DataFrame, key_groups: tuple[int, int] | None = None
    ) -> StateChunk:
        chunk, data = encoded_chunk(name, frame, key_groups)
        path = self._chunks / name
        if path.exists():
            raise InternalError(f"state chunk {name} exists already; chunks never change")
        with self._lock:
            self._unpublished.add(name)
        self._keep(chunk, data)
        return chunk

    def _keep(self, chunk: StateChunk, data: bytes) -> None:
        with files.writing("a checkpoint", intact=self._intact):
            files.make_folder(self._chunks)
            files.write_whole(self._chunks / chunk.name, data, name_durable=False)

    def read_chunk(self, chunk: StateChunk) -> pl.DataFrame:
        return decoded_chunk(chunk, self._fetched(chunk))

    def _fetched(self, chunk: StateChunk) -> bytes:
        try:
            return (self._chunks / chunk.name).read_bytes()
        except OSError as error:
            raise bad_chunk(chunk, error.strerror or str(error)) from error

    def verify_chunk(self, chunk: StateChunk) -> str | None:
        """What is wrong with a chunk's file, or None."""
        digest, num_bytes = xxhash.xxh3_64(), 0
        try:
            with (self._chunks / chunk.name).open("rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
                    num_bytes += len(block)
        except FileNotFoundError:
            return f"state chunk {chunk.name} is missing"
        except OSError as error:
            return f"state chunk {chunk.name} cannot be read: {error.strerror or error}"
        if num_bytes != chunk.num_bytes:
            return f"state chunk {chunk.name} has {num_bytes} bytes instead of {chunk.num_bytes}"
        if digest.hexdigest() != chunk.checksum:
            return f"state chunk {chunk.name} is damaged: its checksum does not match"
        return None

    def release_chunk(self, name: str) -> None:
        with self._lock:
            self._unpublished.discard(name)

    @property
    def scratch(self) -> Path:
        return self.home / "scratch"

    def redo_folder(self, step: str) -> Path:
        with files.writing("a checkpoint"):
            return files.make_folder(self.home / "redo" / files.check_step(step))

    @property
    def puts_redo(self) -> bool:
        return False

    def put_redo(self, step: str, committable: Committable) -> None:
        """A folder is seen as it is."""

    def rewind(self, epoch: int) -> None:
        later = [other for other in self._epochs() if other > epoch]
        for other in later:
            (self.home / resolve.manifest_name(other)).unlink(missing_ok=True)
        for folder in (self.home, self._chunks, *self._redo_folders()):
            files.remove_temporaries(folder)
        if later:
            files.sync_folder(self.home)
        with self._lock:
            self._unpublished.clear()

    def collect(self, retain: int = 3) -> int:
        # In this order a chunk that another thread writes now is not listed, or is known as unpublished,
        # or is named by a manifest.
        names = self._names()
        unpublished = self._chunks_to_come(names)
        readable = [fact.manifest for fact in map(self._read, self._epochs()) if fact.manifest]
        keep = resolve.retained(readable, retain)
        deletable = resolve.deletable(keep, names, unpublished=unpublished)
        # Manifests first: if this process dies here, no manifest remains without its chunks.
        count = 0
        for name in sorted(deletable, key=lambda each: (not each.startswith("manifest-"), each)):
            with contextlib.suppress(OSError):
                (self.home / name).unlink()
                count += 1
        return count

    def _chunks_to_come(self, names: Collection[str]) -> set[str]:
        """The chunks that the next manifest may refer to. names: of all files, as `_names` gives them."""
        with self._lock:
            return set(self._unpublished)

    def delete(self, epochs: Collection[int]) -> int:
        """Delete checkpoints, and the files that only they refer to. Call it only while no run writes here.
        Returns how many bytes were deleted."""
        before = self.sizes().total
        for epoch in epochs:
            (self.home / resolve.manifest_name(epoch)).unlink(missing_ok=True)
        if self.home.is_dir():
            files.sync_folder(self.home)
        self.collect(retain=sys.maxsize)
        if not self._epochs():
            for path in _entries(self._chunks):
                path.unlink(missing_ok=True)
        return before - self.sizes().total

    def clear(self) -> None:
        # current.json first: after a crash here, the folders that remain belong to no lineage in use.
        with files.writing("the workflow's folder"):
            (self.folder / "current.json").unlink(missing_ok=True)
            if self.folder.is_dir():
                files.sync_folder(self.folder)
                for path in self.folder.iterdir():
                    if path.is_dir() and _LINEAGE_FOLDER.fullmatch(path.name):
                        shutil.rmtree(path)
        with self._lock:
            self._unpublished.clear()

    def sizes(self) -> StoreSizes:
        """The size of this lineage on disk."""
        totals = {"manifest": 0, "chunks": 0, "redo": 0}
        for name in self._names():
            with contextlib.suppress(OSError):
                kind = name.partition("/")[0].partition("-")[0]
                totals[kind] += (self.home / name).stat().st_size
        newest = self._epochs()[:1]
        last_bytes = None
        if newest:
            with contextlib.suppress(OSError):
                last_bytes = (self.home / resolve.manifest_name(newest[0])).stat().st_size
        return StoreSizes(totals["manifest"], totals["chunks"], totals["redo"], last_bytes)

    @property
    def _chunks(self) -> Path:
        return self.home / "chunks"

    def _redo_folders(self) -> list[Path]:
        return [path for path in _entries(self.home / "redo") if path.is_dir()]

    def _epochs(self) -> list[int]:
        epochs = (resolve.manifest_epoch(path.name) for path in _entries(self.home))
        return sorted((epoch for epoch in epochs if epoch is not None), reverse=True)

    def _names(self) -> list[str]:
        """The complete files in the lineage's folder, with the names that `resolve.deletable` uses."""
        names = [resolve.manifest_name(epoch) for epoch in self._epochs()]
        names += [
            f"chunks/{path.name}"
            for path in _entries(self._chunks)
            if not path.name.startswith(files.TEMPORARY)
        ]
        for folder in self._redo_folders():
            names += [f"redo/{folder.name}/{path.name}" for path in _entries(folder)]
        return names

    def _read(self, epoch: int) -> ManifestFact:
        try:
            data = (self.home / resolve.manifest_name(epoch)).read_bytes()
            manifest = Manifest.from_text(data.decode("ascii"))
        except OSError as error:
            return ManifestFact(epoch, None, f"it cannot be read: {error.strerror or error}", False)
        except UnicodeDecodeError:
            return ManifestFact(epoch, None, "it has bytes that are not ASCII", False)
        except Damaged as error:
            return ManifestFact(epoch, None, error.problem, False)
        problem = self._misplaced(manifest, epoch)
        if problem:
            return ManifestFact(epoch, None, problem, False)
        return ManifestFact(epoch, manifest)

    def _misplaced(self, manifest: Manifest, epoch: int) -> str | None:
        if manifest.lineage != self.lineage:
            return f"it belongs to another lineage, {manifest.lineage}"
        if manifest.epoch != epoch:
            return f"it is the checkpoint {manifest.epoch} under the name of another"
        return None

    def _with_chunks(
        self, manifest: Manifest, checked: dict[StateChunk, str | None]
    ) -> ManifestFact:
        for chunk in manifest.chunks.values():
            if chunk not in checked:
                checked[chunk] = self.verify_chunk(chunk)
            if checked[chunk] is not None:
                return ManifestFact(manifest.epoch, manifest, checked[chunk], False)
        return ManifestFact(manifest.epoch, manifest)

    def _intact(self) -> str:
        newest = self._epochs()[:1]
        return f"the last one, {newest[0]}, is intact" if newest else "there is none yet"


def lineages_in(folder: Path) -> list[Path]:
    """The folders of lineages in a workflow's folder that have a checkpoint, complete or damaged."""
    return sorted(
        path
        for path in _entries(folder)
        if _LINEAGE_FOLDER.fullmatch(path.name)
        and any(resolve.manifest_epoch(entry.name) is not None for entry in _entries(path))
    )


def newest_manifest(folder: Path) -> Manifest | None:
    """The newest readable manifest in a lineage's folder, of any lineage. Its chunks are not checked."""
    names = sorted((entry.name for entry in _entries(folder)), reverse=True)
    for name in names:
        if resolve.manifest_epoch(name) is not None:
            with contextlib.suppress(OSError, UnicodeDecodeError, Damaged):
                return Manifest.from_text((folder / name).read_bytes().decode("ascii"))
    return None


def _entries(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in os.listdir(folder)]
    except (FileNotFoundError, NotADirectoryError):
        return []
