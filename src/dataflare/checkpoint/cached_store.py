"""The store of a worker whose chunks are in a folder that all machines see, and on the disk of its machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dataflare.checkpoint.chunk_cache import ChunkCache
from dataflare.checkpoint.chunk_content import decoded_chunk
from dataflare.checkpoint.shared_store import SharedStore
from dataflare.checkpoint.snapshots import StateChunk

if TYPE_CHECKING:
    import polars as pl


class CachedStore(SharedStore):
    """As `SharedStore`. What is written or read is also kept in the cache."""

    def __init__(self, folder: Path, lineage: str, cache: ChunkCache) -> None:
        super().__init__(folder, lineage)
        self._cache = cache

    def _keep(self, chunk: StateChunk, data: bytes) -> None:
        super()._keep(chunk, data)
        self._cache.put(chunk, data)

    def read_chunk(self, chunk: StateChunk) -> pl.DataFrame:
        return decoded_chunk(chunk, self._content(chunk))

    def warm(self, chunk: StateChunk) -> None:
        self._content(chunk)

    def _content(self, chunk: StateChunk) -> bytes:
        data = self._cache.get(chunk)
        if data is None:
            data = self._fetched(chunk)
            self._cache.put(chunk, data)
        return data
