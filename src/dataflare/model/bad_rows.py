"""Rows that could not be read, as a source reports them: one by one, or as columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

from msgspec import Struct

if TYPE_CHECKING:
    import polars as pl


class BadRow(Struct, frozen=True):
    """A row that could not be read. row: its index in the chunk; raw: its text or bytes as text;
    place: where it is in the source, to show to the user; neighbours: hashes of the rows beside it, by
    which its place is found again (see `formats.neighbours`), or None."""

    row: int
    code: str
    message: str
    raw: str
    place: str
    neighbours: str | None = None


class BadRows(Sequence[BadRow]):
    """Bad rows stored as columns. Use it where there may be many: 1 % of a file's rows then costs little."""

    def __init__(self, frame: pl.DataFrame) -> None:
        """frame: the columns row (Int64), code, message, raw and place (String), and neighbours, where
        there are any."""
        self.frame = frame

    @classmethod
    def of(cls, rows: Sequence[BadRow]) -> BadRows:
        """These rows as columns. Returns the same object when they already are."""
        if isinstance(rows, BadRows):
            return rows
        import polars as pl

        return cls(
            pl.DataFrame(
                {
                    "row": [row.row for row in rows],
                    "code": [row.code for row in rows],
                    "message": [row.message for row in rows],
                    "raw": [row.raw for row in rows],
                    "place": [row.place for row in rows],
                    "neighbours": [row.neighbours for row in rows],
                },
                schema={
                    "row": pl.Int64,
                    **dict.fromkeys(("code", "message", "raw", "place", "neighbours"), pl.String),
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
