"""Rows that a run could not read, read again from their places in the files.

Always true: the row at a place is used only if it is the row that was refused, by its text, or if
its adjacent rows are the same as then. So a row that moved up into the place of a deleted row is
never used in its place.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import polars as pl

from dataflare.errors import DataFlareError
from dataflare.formats.misread import RAW_MAX, raw_text
from dataflare.formats.ndjson_read import NdjsonPlan
from dataflare.formats.ndjson_watch import new_fields
from dataflare.formats.neighbours import is_same_place
from dataflare.model.progress import Split
from dataflare.sdk.source import (
    Chunk,
    ChunkReader,
    EndOfSplit,
    Reread,
    Salvaged,
    SourceConnector,
    UnreadRow,
)
from dataflare.sdk.threads import in_thread

_TEXTS = ("csv", "ndjson", "json")
"""Formats whose rows have texts. A row of other formats is identified by the values of its
columns."""

Wanted = dict[str, list[int]]
"""By place: the indexes of the rows there."""


async def read_again(source: SourceConnector, rows: Sequence[UnreadRow]) -> list[Reread]:
    """The current state of each row. Reads the files with these rows, up to the last place."""
    why = "their files are not among those that the source reads now"
    answers = [Reread(why=why, detail=str(row.place), moved=True) for row in rows]
    for split in await source.splits():
        wanted = _inside(split, rows)
        if not wanted:
            continue
        for index in (index for indexes in wanted.values() for index in indexes):
            answers[index] = _moved(rows[index])
        try:
            await _read_split(source, split, wanted, rows, answers)
        except DataFlareError as error:
            for index in (index for indexes in wanted.values() for index in indexes):
                why = "their file cannot be read"
                answers[index] = Reread(why=why, detail=error.message)
    return answers


def _inside(split: Split, rows: Sequence[UnreadRow]) -> Wanted:
    wanted: Wanted = {}
    for index, row in enumerate(rows):
        if row.place is not None and _label(row.place) == split.data["path"]:
            wanted.setdefault(row.place, []).append(index)
    return wanted


def _label(place: str) -> str:
    """The file that a place names: `data/a.csv line 5`, `b.xlsx sheet 'Sheet 1' row 5`."""
    label = place.rsplit(" ", 2)[0]
    return label[: label.rfind(" sheet '")] if label.endswith("'") else label


def _number(place: str) -> int:
    return int(place.rsplit(" ", 1)[1])


def original(plan: NdjsonPlan, was: UnreadRow, answer: Reread, *, watch: bool) -> Reread:
    """The row from its own text, which contains its fields, if its place does not exist any more.
    answer: the result if that cannot be read either. watch: look for new fields."""
    data = was.raw.encode()
    if "\N{REPLACEMENT CHARACTER}" in was.raw or len(data) > RAW_MAX:
        return answer
    saved = plan.salvage(data, lambda line: str(was.place))
    if saved.bad or not saved.good.height:
        return answer
    found = new_fields(plan.columns, data) if watch else None
    if found is not None:
        return _unforeseen(str(was.place), [*found.fields])
    return Reread(row=saved.good, source=f"{was.place}: {was.raw}")


def _unforeseen(place: str, fields: Sequence[str]) -> Reread:
    why = "they have fields that the source's columns lack: name these in its 'schema'"
    return Reread(why=why, detail=f"{place}, with '{fields[0]}'")


def _moved(was: UnreadRow) -> Reread:
    """The result for a place that does not exist any more, or whose row and adjacent rows have
    changed."""
    return Reread(
        why="their places hold other rows now, because lines before them came or went; put the file back "
        "as it was, and change only the rows themselves",
        detail=str(was.place),
        moved=True,
    )


async def _read_split(
    source: SourceConnector,
    split: Split,
    wanted: Wanted,
    rows: Sequence[UnreadRow],
    answers: list[Reread],
) -> None:
    reader = await source.open(split, None)
    assert isinstance(reader, ChunkReader)
    left, is_table = set(wanted), split.data["format"] not in _TEXTS
    try:
        following = await _next(reader)
        while following is not None and left:
            chunk, following = following, await _next(reader)
            if _may_hold(chunk, left):
                view = await in_thread(_View, chunk, following is None, is_table)
                for place in left & view.places.keys():
                    left.discard(place)
                    for index in wanted[place]:
                        answers[index] = view.answer(place, rows[index])
    finally:
        await reader.aclose()


async def _next(reader: ChunkReader) -> Chunk | None:
    try:
        return await reader.read_chunk()
    except EndOfSplit:
        return None


def _may_hold(chunk: Chunk, places: set[str]) -> bool:
    """Whether one of the places may be in the chunk, by its first and last row."""
    count = chunk.count()
    if not count or chunk.place is None:
        return True
    first, last = chunk.place(0), chunk.place(count - 1)
    if first.rsplit(" ", 1)[0] != last.rsplit(" ", 1)[0]:
        return True
    start, end = _number(first), _number(last)
    return any(start <= _number(place) <= end for place in places)


class _View:
    """A chunk with a lookup of rows by place."""

    def __init__(self, chunk: Chunk, ends: bool, is_table: bool) -> None:
        assert chunk.salvage is not None
        assert chunk.place is not None
        self._chunk, self._ends, self._is_table = chunk, ends, is_table
        self._saved: Salvaged = chunk.salvage()
        found = chunk.new_fields() if chunk.new_fields is not None else None
        self._fields = {} if found is None else found.fields
        self._rows = len(self._saved.good_rows) + len(self._saved.bad)
        self._good = {row: at for at, row in enumerate(self._saved.good_rows.to_list())}
        self._bad = {bad.row: bad for bad in self._saved.bad}
        self.places = {chunk.place(row): row for row in range(self._rows)}

    def answer(self, place: str, was: UnreadRow) -> Reread:
        """The row at a place, if it is the row that was refused."""
        row, texts = self.places[place], self._chunk.texts
        if texts is None:
            return Reread(why="their texts cannot be compared with those of then", detail=place)
        if not self._is_same_row(was.raw, texts([row])[0]) and not is_same_place(
            was.neighbours, row, self._rows, texts, ends=self._ends
        ):
            return _moved(was)
        bad = self._bad.get(row)
        if bad is not None:
            return Reread(why="they still cannot be read", detail=f"{place}: {bad.message}")
        new = [path for path, rows in self._fields.items() if row in rows]
        if new:
            return _unforeseen(place, new)
        frame: pl.DataFrame = self._saved.good[self._good[row]]
        return Reread(row=frame, source=place)

    def _is_same_row(self, was: str, now: bytes) -> bool:
        """Whether a row has the same text as before; for a row of a table, in the columns that were
        read before."""
        if raw_text(now) == was:
            return True
        if not self._is_table:
            return False
        then, today = json.loads(was), json.loads(now)
        return bool(then) and all(name in today and today[name] == then[name] for name in then)
