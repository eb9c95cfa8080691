"""Rows that could not be read, as a source tells them: one by one, or as columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

from msgspec import Struct

if TYPE_CHECKING:
    import polars as pl


class BadRow(Struct, frozen=True):
    """A row that could not be read. row: its index in the chunk; raw: its text or bytes as text;
    place: where it stands, for people."""

    row: int
    code: str
    message: str
    raw: str
    place: str


class BadRows(Sequence[BadRow]):
    """Bad rows kept as columns, where there may be many of them: a hundredth of a file costs little."""

    def __init__(self, frame: pl.DataFrame) -> None:
        """frame: the columns row (Int64), code, message, raw and place (String)."""
        self.frame = frame

    @classmethod
    def of(cls, rows: Sequence[BadRow]) -> BadRows:
        """These rows; themselves when they are kept as columns already."""
        if isinstance(rows, BadRows):
            return rows
        import polars as pl

        return cls(
            pl.DataFrame(
                {
                    "row": [bad.row for bad in rows],
                    "code": [bad.code for bad in rows],
                    "message": [bad.message for bad in rows],
                    "raw": [bad.raw for bad in rows],
                    "place": [bad.place for bad in rows],
                },
                schema={
                    "row": pl.Int64,
                    **dict.fromkeys(("code", "message", "raw", "place"), pl.String),
                },
            )
        )

    def __len__(self) -> int:
        return self.frame.height

    @overload
    def __getitem__(self, index: int) -> BadRow: ...
    @overload
    def __getitem__(self, index: slice) -> BadRows: ...
    def __getitem__(self, index: int | slice) -> BadRow | BadRows:
        if isinstance(index, slice):
            return BadRows(self.frame[index])
        return BadRow(*self.frame.row(index))

    def __iter__(self) -> Iterator[BadRow]:
        return (BadRow(*values) for values in self.frame.iter_rows())
