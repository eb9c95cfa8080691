"""Store a lineage's checkpoints in a folder that several processes write to, on one machine or on many.

One of them is the job: it publishes manifests and deletes files. The others write chunks and redo files.

Always true: of the chunks of its attempt, the job deletes only those that a manifest has named, or that their process has
released: it does not know what others have written for the next manifest. What remains of them is deleted by the next
attempt. And of two jobs that both believe to have the workflow's lock (a machine that was cut off has lost it), only the one
that began an attempt last publishes anything.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from pathlib import Path

from dataflare.checkpoint import files
from dataflare.checkpoint.manifest import Manifest
from dataflare.checkpoint.shared_places import FolderPlace, SharedPlace
from dataflare.checkpoint.snapshots import StateChunk
from dataflare.checkpoint.store import LocalStore, chunk_attempt
from dataflare.errors import CheckpointError

_FENCE = "attempt"
"""A file with the mark of the store whose attempt began last."""


class SharedStore(LocalStore):
    """`Storage` in a folder that all processes of a run see."""

    def __init__(self, folder: Path, lineage: str) -> None:
        super().__init__(folder, lineage)
        self._begin_sharing()

    def _begin_sharing(self) -> None:
        self._attempt = 0
        self._mark, self._has_begun = secrets.token_hex(16), False
        self._settled: set[str] = set()
        self._released: list[str] = []

    @property
    def place(self) -> SharedPlace:
        """Where all processes of a run see each other's files."""
        return FolderPlace(self.home)

    def rewind(self, epoch: int) -> None:
        super().rewind(epoch)
        with files.writing("the mark of an attempt"):
            files.make_folder(self.home)
            files.write_whole(self.home / _FENCE, self._mark.encode("ascii"))
        self._has_begun = True

    def _write_manifest(self, path: Path, data: bytes) -> None:
        if not self._has_begun:  # what the attempt goes on from
            super()._write_manifest(path, data)
            return
        # The file is a new one: an attempt begins by deleting those that it will write. So of two that get here at once one fails.
        try:
            if (self.home / _FENCE).read_bytes() == self._mark.encode("ascii"):
                files.write_whole(path, data, crash="checkpoint", is_new=True)
                return
        except FileExistsError:
            pass
        raise CheckpointError(
            f"a checkpoint of '{self.folder.name}' was not published: another process of this workflow has taken over",
            code="E0705",
            help="nothing is lost: the other one goes on; stop one of them if two run",
        )

    def publish(self, manifest: Manifest) -> None:
        super().publish(manifest)
        with self._lock:
            self._attempt = manifest.attempt
            self._settled |= manifest.chunks.keys()

    def release_chunk(self, name: str) -> None:
        super().release_chunk(name)
        with self._lock:
            self._released.append(name)

    def warm(self, chunk: StateChunk) -> None:
        """Have a chunk on the disk of this machine, if there is a cache. Raises as `read_chunk`."""

    def take_released(self) -> list[str]:
        """The chunks that were released since the last call, for the job."""
        with self._lock:
            released, self._released = self._released, []
        return released

    def take_redo(self) -> list[str]:
        """The redo files that only other processes fetch and that are new since the last call: in a folder none."""
        return []

    def settle(self, released: Collection[str], redo: Collection[str] = ()) -> None:
        """Other processes have released these chunks, and put these redo files. Chunks that a manifest names stay."""
        with self._lock:
            self._settled |= set(released)

    def handed_over(self) -> dict[str, bytes]:
        """The files that other processes need and do not see: in a folder none."""
        return {}

    def take_over(self, handed_over: Mapping[str, bytes]) -> None:
        """Take the files of `handed_over`."""

    def _chunks_to_come(self, names: Collection[str]) -> set[str]:
        chunks = {name.removeprefix("chunks/") for name in names if name.startswith("chunks/")}
        with self._lock:
            self._settled &= chunks
            settled = set(self._settled)
        return {
            name
            for name in chunks - settled
            if (attempt := chunk_attempt(name)) is not None and attempt >= self._attempt
        }
