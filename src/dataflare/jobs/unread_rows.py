"""The rows of a source's letters, read again from where they stood."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl
from msgspec import Struct

from dataflare.engine.row_errors import fault_text
from dataflare.expr import NOW_COLUMN
from dataflare.jobs.messages_again import decoded_again
from dataflare.operators.base import ERROR_COLUMN, Lowering, RowOperator
from dataflare.sdk.messages.letters import SupportsMessages
from dataflare.sdk.source import Reread, SupportsReread, UnreadRow

if TYPE_CHECKING:
    from dataflare.jobs.letters import Letter
    from dataflare.planner.graph import SourceNode


class RowsAgain(Struct):
    """letters: those whose rows could be read now; several may be of one row. rows: each row once. left:
    why the other letters stay, and how many."""

    letters: Sequence[Letter]
    rows: pl.DataFrame
    left: Mapping[str, int]


async def read_rows_again(
    node: SourceNode, letters: Sequence[Letter], stamp: RowOperator | None, schema_change: str
) -> RowsAgain:
    """Read the rows of a source's letters as the workflow says today. stamp: of the source's event time;
    a row that it refuses keeps its letter. schema_change: of the workflow."""
    source, none = node.connector, pl.DataFrame(schema=node.schema.to_polars())
    answers: Sequence[Reread]
    if isinstance(source, SupportsMessages):
        answers = await decoded_again(source, letters, schema_change)
    elif isinstance(source, SupportsReread):
        answers = await source.reread(
            [UnreadRow(each.position, str(each.row["raw"]), each.neighbours) for each in letters]
        )
    else:
        advice = "fix the data or the workflow, and run the workflow again"
        if not source.reads_all():
            advice = (
                "its runs read only new rows, and have passed these: fix a row and give it a newer value in "
                "the cursor column, so that the next run reads it; or empty the destination and run with "
                "--fresh. Then throw the letters away with `dataflare dlq purge`"
            )
        why = f"source '{node.step}' (type {node.type}) cannot read a single row again, as a file or a broker of messages can: {advice}"
        return RowsAgain([], none, {why: len(letters)})
    answers = [_timely(each, stamp) for each in answers]
    unread: dict[str, list[Reread]] = {}
    for each in answers:
        if each.row is None:
            unread.setdefault(each.why, []).append(each)
    left = {
        f"source '{node.step}': {why}; the first is {same[0].detail}": len(same)
        for why, same in unread.items()
    }
    read = [letter for letter, each in zip(letters, answers, strict=True) if each.row is not None]
    return RowsAgain(read, pl.concat([none, *_rows(answers)]).rechunk(), left)


def _timely(answer: Reread, stamp: RowOperator | None) -> Reread:
    """The answer, or why its row still has no usable event time."""
    if answer.row is None or stamp is None:
        return answer
    lowering, now = Lowering(), datetime.datetime.now(datetime.UTC)
    clock = pl.lit(now, pl.Datetime("us", "UTC")).alias(NOW_COLUMN)
    stamped = stamp.lower(answer.row.lazy().with_columns(clock), lowering).collect()
    codes = stamped[ERROR_COLUMN].drop_nulls()
    if not codes.len():
        return answer
    _, _, message = fault_text(codes[0], lowering)
    return Reread(why=f"they still fail: {message}", detail=answer.detail or answer.source)


def _rows(answers: Sequence[Reread]) -> Iterator[pl.DataFrame]:
    seen = set[str]()
    for each in answers:
        if each.row is not None and each.source not in seen:
            seen.add(each.source)
            yield each.row
