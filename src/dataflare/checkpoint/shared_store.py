"""Store a lineage's checkpoints in a folder that several processes write to, on one machine or on many.

One of them is the job: it publishes manifests and deletes files. The others write chunks and redo files.

Always true: of the chunks of its attempt, the job deletes only those that a manifest has named, or that their process has
released: it does not know what others have written for the next manifest. What remains of them is deleted by the next
attempt.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from dataflare.checkpoint.manifest import Manifest
from dataflare.checkpoint.store import LocalStore, chunk_attempt


class SharedStore(LocalStore):
    """`Storage` in a folder that all processes of a run see."""

    def __init__(self, folder: Path, lineage: str) -> None:
        super().__init__(folder, lineage)
        self._attempt = 0
        self._settled: set[str] = set()
        self._released: list[str] = []

    def publish(self, manifest: Manifest) -> None:
        super().publish(manifest)
        with self._lock:
            self._attempt = manifest.attempt
            self._settled |= manifest.chunks.keys()

    def release_chunk(self, name: str) -> None:
        super().release_chunk(name)
        with self._lock:
            self._released.append(name)

    def take_released(self) -> list[str]:
        """The chunks that were released since the last call, for the job."""
        with self._lock:
            released, self._released = self._released, []
        return released

    def settle(self, names: Collection[str]) -> None:
        """Other processes have released these chunks. Those that a manifest names stay."""
        with self._lock:
            self._settled |= set(names)

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
