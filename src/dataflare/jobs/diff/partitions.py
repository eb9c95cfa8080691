"""Rows of one side by a hash of their key, in memory while they fit there, else in a file without a name.

Always true: rows of one key are in the partition of one number, on both sides.
"""

from __future__ import annotations

import io

import polars as pl

from dataflare.jobs.diff.columns import Comparison
from dataflare.jobs.diff.matching import WEIGHT
from dataflare.model.batch import KIND_COLUMN, RowKind
from dataflare.state.scratch import ScratchFile

PARTITIONS = 256
_PART = "p"
_SAMPLE_PARTS = 1 << 20
_TAKEN_BACK = (int(RowKind.UPDATE_BEFORE), int(RowKind.DELETE))


class Partitions:
    """Rows as `Comparison.held` names them, with WEIGHT. memory_bytes: how much of them is held in memory. only: the
    forms of keys; other rows are left out. sample: the share of keys whose rows are taken."""

    def __init__(
        self,
        comparison: Comparison,
        side: str,
        memory_bytes: int,
        *,
        only: pl.DataFrame | None = None,
        sample: float | None = None,
    ) -> None:
        self._comparison, self._side, self._memory = comparison, side, memory_bytes
        self._only, self._sample = only, sample
        self._frames: list[pl.DataFrame] = []
        self._bytes = 0
        self._file: ScratchFile | None = None
        self._places: list[list[tuple[int, int]]] = [[] for _ in range(PARTITIONS)]

    def add(self, frame: pl.DataFrame) -> None:
        """Rows with the names of the side's table; a changelog with its kinds."""
        weight = pl.lit(1, pl.Int32)
        if KIND_COLUMN in frame.columns:
            is_taken_back = pl.col(KIND_COLUMN).is_in(_TAKEN_BACK)
            weight = pl.when(is_taken_back).then(pl.lit(-1, pl.Int32)).otherwise(weight)
        held = frame.select(*self._comparison.held(self._side), weight.alias(WEIGHT))
        held = held.filter(self._taken(held))
        self._frames.append(held)
        self._bytes += int(held.estimated_size())
        if self._bytes > self._memory:
            self.spill()

    @property
    def is_spilled(self) -> bool:
        return self._file is not None

    def spill(self) -> None:
        """Write the rows in memory to the file."""
        if self._file is None:
            self._file = ScratchFile(None)
        for number, part in self._divided():
            stream = io.BytesIO()
            part.write_ipc(stream, compression="lz4")
            self._places[number].append((self._file.num_bytes, stream.tell()))
            self._file.append(stream.getbuffer())
        self._frames, self._bytes = [], 0

    def whole(self) -> pl.DataFrame:
        """All rows, if they are in memory."""
        return pl.concat(self._frames) if self._frames else self._empty()

    def part(self, number: int) -> pl.DataFrame:
        """The rows of a partition, from the file."""
        assert self._file is not None
        pieces = self._file.read(self._places[number])
        frames = [pl.read_ipc(io.BytesIO(piece)) for piece in pieces]
        return pl.concat(frames) if frames else self._empty()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _taken(self, held: pl.DataFrame) -> pl.Expr | pl.Series:
        if self._only is not None:
            numbered = self._keys(held).with_row_index("row")
            rows = numbered.join(self._only, on=self._only.columns, how="semi", nulls_equal=True)
            return pl.int_range(pl.len()).is_in(rows["row"].implode())
        if self._sample is not None:
            hashes = self._keys(held).to_struct().hash(seed=11)
            return hashes % _SAMPLE_PARTS < int(self._sample * _SAMPLE_PARTS)
        return pl.lit(True)

    def _keys(self, held: pl.DataFrame) -> pl.DataFrame:
        comparison = self._comparison
        names = comparison.key_forms or comparison.all_forms
        return held.select(comparison.forms(self._side)).select(names)

    def _divided(self) -> list[tuple[int, pl.DataFrame]]:
        if not self._frames:
            return []
        frame = pl.concat(self._frames)
        part = self._keys(frame).to_struct().hash(seed=7) % PARTITIONS
        parts = frame.with_columns(part.alias(_PART)).partition_by(
            _PART, include_key=False, as_dict=True
        )
        return [(int(str(number)), each) for (number,), each in parts.items()]

    def _empty(self) -> pl.DataFrame:
        pairs = self._comparison.pairs
        types = [each.left_type if self._side == "left" else each.right_type for each in pairs]
        columns = {f"v{at}": type_.to_polars() for at, type_ in enumerate(types)}
        return pl.DataFrame(schema={**columns, WEIGHT: pl.Int32()})
