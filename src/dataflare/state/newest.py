"""The newest row of each key, found by key.

The rows are a log, so they are merged, stored and restored as those of every log. In memory each piece of the log has an
index, made when it is asked first. With a point store the rows are there too, and the pieces only serve checkpoints.
"""

from __future__ import annotations

import polars as pl

from dataflare.state.hash_index import HashIndex, of_range
from dataflare.state.key_hashes import HASH, with_hashes
from dataflare.state.log import Log
from dataflare.state.pieces import Piece, range_of

_ROW = "__dataflare_row"


class Newest:
    """log: merges to the newest row of each key; none of its pieces has a key twice. Without keys there is one
    row."""

    def __init__(self, log: Log) -> None:
        self.log, self._keys = log, log.keys
        log.on_merged = self._index

    @property
    def num_bytes(self) -> int:
        """Of the indexes."""
        indexes = (piece.index for piece in self.log.pieces())
        return sum(index.num_bytes for index in indexes if index is not None)

    def put(self, rows: pl.DataFrame) -> None:
        """rows: of different keys. They replace those of the same keys."""
        self.log.append(rows)

    def find(self, keys: pl.DataFrame) -> pl.DataFrame | None:
        """The rows of some keys; None where there are none. keys: each once."""
        pieces = self.log.pieces()
        if not self._keys:
            return self.log.frame_of(pieces[-1]).tail(1) if pieces else None
        wanted = with_hashes(keys.select(self._keys), self._keys).sort(HASH)
        found = []
        for piece in reversed(pieces):
            number = range_of(piece.groups)
            first, rows = (0, wanted.height) if number is None else of_range(wanted, number)
            if not rows:
                continue
            probe, index = wanted.slice(first, rows), self._index(piece)
            places = index.places(probe)
            known = places.is_not_null()
            if known.any():
                places = index.held[_ROW].gather(places.filter(known))
                found.append(self.log.frame_of(piece)[places])
                rest = wanted.slice(first + rows)
                wanted = pl.concat([wanted.head(first), probe.filter(~known), rest])
        return pl.concat(found) if found else None

    def _index(self, piece: Piece) -> HashIndex:
        index = piece.index
        if index is None:
            keys = self.log.frame_of(piece).select(self._keys).with_row_index(_ROW)
            index = HashIndex(with_hashes(keys, self._keys).sort(HASH), self._keys)
            piece.index = index
        assert isinstance(index, HashIndex)
        return index
