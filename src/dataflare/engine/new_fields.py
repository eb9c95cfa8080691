"""What a source's task does with fields that its columns lack, as `schema_change` says.

Always true: no row with such a field leaves the task before it was decided what becomes of the field.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import polars as pl

from dataflare.engine.metrics import LeftOut
from dataflare.errors import DataError
from dataflare.model.bad_rows import BadRow
from dataflare.model.new_fields import FieldsAppeared, NewFields
from dataflare.sdk.source import Chunk, EndOfSplit, Salvaged

if TYPE_CHECKING:
    from dataflare.engine.reopening import ReopeningReader
    from dataflare.engine.segments import Outcome

LOOK_AHEAD_BYTES = 64 << 20
LOOK_AHEAD_S = 2.0
"""Before an attempt is given up for a new field, so much of what follows is searched for others."""

CODE = "E0545"
Place = Callable[[int], str]
"""Where the row with a number is, to show to the user."""


def left_out(step: str, found: NewFields, place: Place | None, outcome: Outcome) -> None:
    """`ignore`: count the rows of each field, to be told at the end of the run."""
    for path, rows in found.fields.items():
        first = place(rows[0]) if place is not None else ""
        outcome.left_out.append((step, path, LeftOut(len(rows), first)))


def refused(step: str, found: NewFields, place: Place | None) -> DataError:
    """`fail`: the error for the first row with a new field."""
    row = found.rows[0]
    names = [path for path, rows in found.fields.items() if rows[0] == row]
    where = f" ({place(row)})" if place is not None else ""
    return DataError(
        f"step '{step}': {_fields(names)} not in the schema, and schema_change is fail{where}",
        code=CODE,
        step=step,
        notes=[f"the row: {found.raw(row)[:200]}"],
        help=f"name it in the source's 'schema' ({names[0]}: its type), or set schema_change",
    )


def letters(found: NewFields, saved: Salvaged, place: Place | None) -> Salvaged:
    """`dead_letter`: the rows without new fields, and the others as bad rows."""
    numbers = pl.Series(found.rows, dtype=pl.Int64)
    keeps = ~saved.good_rows.is_in(numbers.implode())
    readable = set(saved.good_rows.filter(~keeps).to_list())
    names: dict[int, list[str]] = {}
    for path, rows in found.fields.items():
        for row in rows:
            names.setdefault(row, []).append(path)
    bad = [
        BadRow(
            row,
            CODE,
            f"{_fields(names[row])} not in the schema, and the row has a value for it",
            found.raw(row),
            place(row) if place is not None else "",
        )
        for row in found.rows
        if row in readable
    ]
    return Salvaged(saved.good.filter(keeps), saved.good_rows.filter(keeps), bad)


def _fields(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names)
    return f"field {shown} is" if len(names) == 1 else f"fields {shown} are"


class NewFieldsFound(Exception):
    """A chunk has new fields under `evolve`: what the worker thread tells its task."""

    def __init__(self, found: NewFields) -> None:
        super().__init__("new fields")
        self.found = found


async def look_ahead(
    first: NewFields,
    flying: Sequence[asyncio.Future[Outcome]],
    following: AsyncIterator[Chunk],
    search: Callable[[Chunk], Awaitable[NewFields | None]],
) -> list[NewFields]:
    """The new fields of the chunks that are being computed, and of some that follow. The attempt
    ends anyway, so an error there is left for the next one to meet."""
    found = [first]
    for done in await asyncio.gather(*flying, return_exceptions=True):
        if isinstance(done, NewFieldsFound):
            found.append(done.found)
    left = LOOK_AHEAD_BYTES
    with suppress(Exception):
        # A source without an end may have no chunk for long, and a queue gives none before the next checkpoint.
        async with asyncio.timeout(LOOK_AHEAD_S):
            async for chunk in following:
                more = await search(chunk)
                if more is not None:
                    found.append(more)
                left -= chunk.num_bytes
                if left <= 0:
                    break
    return found


async def following(
    reader: ReopeningReader,
    reading: asyncio.Future[Chunk] | None,
    open_next: Callable[[], Awaitable[ReopeningReader | None]],
) -> AsyncGenerator[Chunk]:
    """The chunks of the split behind those that were read, and of the splits that follow. reading: one
    that is being read."""
    current: ReopeningReader | None = reader
    while current is not None:
        try:
            if current is not reader and not await current.gives_chunks():
                return
            while True:
                yield await (reading if reading is not None else current.read_chunk())
                reading = None
        except EndOfSplit:
            reading = None
        finally:
            if current is not reader:
                await current.aclose()
        current = await open_next()


def appeared(reports: Mapping[str, Sequence[NewFields]]) -> FieldsAppeared:
    """What ends the attempt: all columns that the fields found so far need. reports: by step."""
    columns = {step: f[0].columns([each.sample for each in f]) for step, f in reports.items()}
    fields = {
        step: [*dict.fromkeys(p for each in f for p in each.fields)] for step, f in reports.items()
    }
    return FieldsAppeared(columns, fields)
