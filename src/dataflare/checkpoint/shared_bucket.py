"""Store a lineage's checkpoints in a bucket that several processes write to, on one machine or on many.

Workers put chunks and redo files. The job puts manifests, fetches the redo files that its committers need, and deletes.

Always true:
- a worker gives its share after the chunks and redo files of it are in the bucket, so a manifest is put after all of them;
- their names have the number of their attempt, so a worker that was cut off and comes back changes no file of the next
  attempt;
- the job does not fetch chunks of operators to resume: it compares their sizes, and a worker that reads one its checksum.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dataflare.checkpoint import files, resolve
from dataflare.checkpoint.chunk_cache import ChunkCache
from dataflare.checkpoint.chunk_content import bad_chunk, decoded_chunk, encoded_chunk
from dataflare.checkpoint.manifest import Manifest, StateChunk
from dataflare.checkpoint.object_store import Bucket, ObjectStore
from dataflare.checkpoint.resolve import ManifestFact
from dataflare.checkpoint.shared_places import BucketPlace
from dataflare.checkpoint.shared_store import SharedStore
from dataflare.checkpoint.store import chunk_attempt
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import Committable

if TYPE_CHECKING:
    import polars as pl

_KEPT_EPOCHS = 4
"""A worker keeps the redo files of so many epochs on its disk."""


class SharedBucketStore(SharedStore, ObjectStore):
    """`Storage` of the job. folder: the workflow's, where the local copy is."""

    def __init__(self, bucket: Bucket, folder: Path, lineage: str) -> None:
        ObjectStore.__init__(self, bucket, folder, lineage)
        self._begin_sharing()
        self._there: dict[str, int] = {}
        self._redo_put: set[str] = set()
        self._judges_by_size = True

    @property
    def place(self) -> BucketPlace:
        return BucketPlace(self._bucket.url, self._prefix)

    def publish(self, manifest: Manifest) -> None:
        super().publish(manifest)
        self._bring_redo(manifest)
        with self._lock:
            self._redo_put.clear()

    def settle(self, released: Collection[str], redo: Collection[str] = ()) -> None:
        super().settle(released)
        with self._lock:
            self._redo_put |= set(redo)

    def handed_over(self) -> dict[str, bytes]:
        """What committers have left in redo folders for writers: JSON files, by their names below the lineage's folder."""
        return {
            f"redo/{folder.name}/{path.name}": path.read_bytes()
            for folder in self._redo_folders()
            for path in folder.glob("*.json")
        }

    def list_manifests(self, *, thorough: bool = False) -> list[ManifestFact]:
        self._judges_by_size = not thorough
        try:
            return super().list_manifests(thorough=thorough)
        finally:
            self._judges_by_size = True

    def fetch(self) -> None:
        if self._has_fetched:
            return
        self._there = self._sizes_there()
        for name in self._there:
            if resolve.manifest_epoch(name) is not None:
                self._fetch_file(name)
        for epoch in self._epochs():
            manifest = self._read(epoch).manifest
            if manifest is not None:
                self._bring_redo(manifest)
        self._has_fetched = True

    def _with_chunks(
        self, manifest: Manifest, checked: dict[StateChunk, str | None]
    ) -> ManifestFact:
        if self._judges_by_size:
            self.fetch()
            for chunk in manifest.chunks.values():
                checked.setdefault(chunk, self._size_problem(chunk))
        return super()._with_chunks(manifest, checked)

    def _size_problem(self, chunk: StateChunk) -> str | None:
        num_bytes = self._there.get(f"chunks/{chunk.name}")
        if num_bytes is None:
            # Of a savepoint, or of a time without a bucket.
            return super().verify_chunk(chunk)
        if num_bytes != chunk.num_bytes:
            return f"state chunk {chunk.name} has {num_bytes} bytes instead of {chunk.num_bytes}"
        return None

    def _bring_redo(self, manifest: Manifest) -> None:
        """Fetch what workers have put, for the committers of this process."""
        for name in resolve.redo_names(manifest):
            if name in self._redo_put or name in self._there:
                self._fetch_file(name)

    def _put_chunks(self, manifest: Manifest) -> None:
        # What a worker has named in its share is there.
        for name in manifest.chunks.keys() - self._put:
            is_of_worker = chunk_attempt(name) == manifest.attempt
            if f"chunks/{name}" in self._there or (
                is_of_worker and not (self._chunks / name).exists()
            ):
                self._put.add(name)
        super()._put_chunks(manifest)

    def _chunks_to_come(self, names: Collection[str]) -> set[str]:
        return super()._chunks_to_come({*names, *self._there})

    def _names_there(self) -> list[str]:
        self._there = self._sizes_there()
        return list(self._there)

    def _sizes_there(self) -> dict[str, int]:
        prefix = f"{self._prefix}/"
        found = self._bucket.sizes(prefix)
        return {name.removeprefix(prefix): num_bytes for name, num_bytes in found.items()}


class WorkerBucketStore(SharedBucketStore):
    """`Storage` of a worker. folder: on its disk, with the name of the workflow's, for as long as the attempt lasts."""

    def __init__(self, bucket: Bucket, folder: Path, lineage: str, cache: ChunkCache) -> None:
        super().__init__(bucket, folder, lineage)
        self._cache = cache
        self._redo: list[str] = []

    def write_chunk(
        self, name: str, frame: pl.DataFrame, key_groups: tuple[int, int] | None = None
    ) -> StateChunk:
        chunk, data = encoded_chunk(name, frame, key_groups)
        crash_point("bucket.before_chunk")
        self._bucket.put_once(f"{self._prefix}/chunks/{name}", data)
        crash_point("bucket.after_chunk")
        self._cache.put(chunk, data)
        return chunk

    def read_chunk(self, chunk: StateChunk) -> pl.DataFrame:
        return decoded_chunk(chunk, self._content(chunk))

    def warm(self, chunk: StateChunk) -> None:
        self._content(chunk)

    def _content(self, chunk: StateChunk) -> bytes:
        data = self._cache.get(chunk)
        if data is None:
            data = self._bucket.get(f"{self._prefix}/chunks/{chunk.name}")
            if data is None:
                raise bad_chunk(chunk, "it is missing")
            self._cache.put(chunk, data)
        return data

    @property
    def puts_redo(self) -> bool:
        return True

    def put_redo(self, step: str, committable: Committable) -> None:
        for name in resolve.redo_names_of(step, (committable,)):
            path = self.home / name
            if path.is_file():
                crash_point("bucket.before_redo")
                self._bucket.put_file(f"{self._prefix}/{name}", path)
                crash_point("bucket.after_redo")
                with self._lock:
                    self._redo.append(name)
                self._forget_older(path)

    def take_redo(self) -> list[str]:
        """The redo files that were put since the last call, for the job."""
        with self._lock:
            redo, self._redo = self._redo, []
        return redo

    def take_over(self, handed_over: Mapping[str, bytes]) -> None:
        """See `SharedBucketStore.handed_over`."""
        for name, data in handed_over.items():
            files.write_whole(files.make_folder((self.home / name).parent) / Path(name).name, data)

    def _forget_older(self, path: Path) -> None:
        """Remove redo files of this folder that were put long before."""
        newest = resolve.redo_epoch(path.name)
        if newest is None:
            return
        for other in path.parent.iterdir():
            epoch = resolve.redo_epoch(other.name)
            if epoch is not None and epoch <= newest - _KEPT_EPOCHS:
                other.unlink(missing_ok=True)
