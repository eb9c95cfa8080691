"""Texts, bytes, and the values of ENUM and SET of the log as columns. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from dataflare.connectors.mysql.cdc.images import Bytes, Numbers, Values
from dataflare.connectors.mysql.cdc.numbers import fixed, little
from dataflare.connectors.mysql.cdc.table_map import Cell
from dataflare.connectors.mysql.wire import cut
from dataflare.errors import InternalError

UTF8 = ("utf8mb4", "utf8mb3", "utf8", "ascii")
"""The character sets whose bytes are UTF-8."""

_ZLIB = 8


class Recoding:
    """To UTF-8 from a character set with one byte a character. characters: of each byte, its UTF-8."""

    def __init__(self, characters: Sequence[bytes]) -> None:
        self._sizes = np.array([len(each) for each in characters])
        self._bytes = np.zeros((256, max(map(len, characters))), np.uint8)
        for at, each in enumerate(characters):
            self._bytes[at, : len(each)] = list(each)
        self._plain = all(each == bytes([at]) for at, each in enumerate(characters[:128]))

    def recode(self, data: Bytes, values: Values) -> pl.Series:
        """The values as UTF-8 in Binary."""
        before = np.cumsum(values.size) - values.size
        joined = data[np.repeat(values.start - before, values.size) + np.arange(values.size.sum())]
        if self._plain and not (joined > 127).any():
            return _binary(joined, np.concatenate([before, [joined.size]]))
        wide = self._sizes[joined]
        ends = np.concatenate([[0], np.cumsum(wide)])
        recoded = np.empty(int(ends[-1]), np.uint8)
        for at in range(self._bytes.shape[1]):
            has = wide > at
            recoded[ends[:-1][has] + at] = self._bytes[joined[has], at]
        return _binary(recoded, ends[np.concatenate([before, [joined.size]])])


def pieces(data: bytes, values: Values) -> pl.Series:
    """Binary, without a copy."""
    return cut(data, pl.Series(values.start), pl.Series(values.size))


def unpacked(data: Bytes, values: Values) -> tuple[bytes, Bytes, Values]:
    """The values of a column that is compressed (COLUMN ... COMPRESSED), in bytes of their own."""
    view = data.data
    found = [
        _unpacked(view[start : start + size])
        for start, size in zip(values.start.tolist(), values.size.tolist(), strict=True)
    ]
    sizes = np.fromiter(map(len, found), np.int64, len(found))
    joined = b"".join([*found, b"\0"])  # the place of the last one may be the very end
    starts = np.cumsum(sizes) - sizes
    return joined, np.frombuffer(joined, np.uint8), Values(starts, sizes, values.is_null)


def _unpacked(value: memoryview) -> bytes | memoryview:
    """The first byte says how it is compressed, and how many bytes the length behind it has."""
    if not value:
        return value
    head = value[0]
    if head == 0:
        return value[1:]
    if head >> 4 != _ZLIB:
        raise InternalError(f"a compressed value begins with the byte {head}, which is not known")
    return zlib.decompress(value[1 + (head & 7) :], -15 if head & 8 else 15)


def padded(data: Bytes, values: Values, width: int) -> pl.Series:
    """BINARY(n): the log leaves zero bytes at the end out."""
    at = np.arange(width)
    cells = data[np.minimum(values.start[:, None] + at, data.size - 1)]
    cells[at >= values.size[:, None]] = 0
    return _binary(cells.reshape(-1), np.arange(values.size.size + 1) * width)


def _binary(joined: Bytes, edges: Numbers) -> pl.Series:
    offsets = pa.py_buffer(edges.astype(np.int64).tobytes())
    array = pa.Array.from_buffers(
        pa.large_binary(), edges.size - 1, [None, offsets, pa.py_buffer(joined.tobytes())]
    )
    found = pl.from_arrow(array)
    assert isinstance(found, pl.Series)
    return found


def enums(data: Bytes, values: Values, cell: Cell, labels: Sequence[str]) -> pl.Series:
    """Number 0 is the empty text that stands for a value which the column does not have."""
    numbers = little(fixed(data, values, cell.width or 0), unsigned=True)
    known = pl.Series(["", *labels])
    return known.gather(pl.Series(np.where(values.is_null, 0, numbers)))


def sets(data: Bytes, values: Values, cell: Cell, labels: Sequence[str]) -> pl.Series:
    masks = little(fixed(data, values, cell.width or 0), unsigned=True)
    masks = np.where(values.is_null, 0, masks)
    different, places = np.unique(masks, return_inverse=True)
    texts = [
        ",".join(label for at, label in enumerate(labels) if int(mask) >> at & 1)
        for mask in different
    ]
    return pl.Series(texts, dtype=pl.String).gather(pl.Series(places.reshape(-1)))
