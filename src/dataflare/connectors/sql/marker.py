"""The marker row: which epoch of which lineage a database holds. Pure decisions; SQL text only.

Always true:
- rows and marker move in one transaction;
- the marker of a lineage and step never goes down, except by `rewound` before any writer opens;
- an attempt that saw a newer one writes nothing any more;
- a table has one owner: a lineage that finds another one of the same workflow and step in the marker
  table writes nothing, unless it has taken the table over (`TableStore.supersede`).
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Set
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from dataflare.errors import CheckpointError
from dataflare.sdk.destination import Owner, fenced_by_other, refuse_older

if TYPE_CHECKING:
    from dataflare.connectors.sql.store import Target

MARKER_TABLE = "_dataflare_epochs"
ADDED_COLUMNS = ("token", "workflow", "place")
"""Columns that marker tables of earlier versions lack."""
MARKER_COLUMNS = (
    *("lineage", "step", "attempt", "epoch", "rows_total", "manifest", "committed_at"),
    *ADDED_COLUMNS,
)
MARKER_DDL = (
    f"create table if not exists {MARKER_TABLE} (lineage text not null, step text not null, "
    "attempt bigint not null, epoch bigint not null, rows_total bigint not null, manifest text, "
    "committed_at text not null, token text, workflow text, place text, "
    "primary key (lineage, step))"
)


class Stored(Struct, frozen=True):
    """A marker row. rows_total: rows this lineage and step have written so far. token: of the attempt."""

    attempt: int
    epoch: int
    rows_total: int
    manifest: str | None
    token: str = ""


class MarkerRows(Struct, frozen=True):
    """What a marker table says of a target: the row of its lineage, and the newest one of another
    lineage of the same workflow, step and table."""

    own: Stored | None = None
    other: Owner | None = None


def widening(columns: Collection[str], table: str = MARKER_TABLE) -> list[str]:
    """The statements that give a marker table of an earlier version its newer columns."""
    return [f"alter table {table} add column {n} text" for n in ADDED_COLUMNS if n not in columns]


def selection(
    target: Target, columns: Set[str], table: str = MARKER_TABLE, mark: str = "?"
) -> tuple[str, list[str]]:
    """The query for `marker_rows` and its parameters. columns: that the marker table has."""
    token = "token" if "token" in columns else "null"
    query = (
        f"select lineage, attempt, epoch, rows_total, cast(manifest as text), {token} "
        f"from {table} where step = {mark} and "
    )
    if not target.workflow or not columns >= set(ADDED_COLUMNS):
        return f"{query}lineage = {mark}", [target.step, target.lineage]
    return (
        f"{query}(lineage = {mark} or (workflow = {mark} and place = {mark})) "
        "order by committed_at desc",
        [target.step, target.lineage, target.workflow, target.place],
    )


def marker_rows(target: Target, rows: Iterable[tuple[Any, ...]]) -> MarkerRows:
    """What the rows of a `selection` say."""
    own, other = None, None
    for lineage, attempt, epoch, rows_total, manifest, token in rows:
        text = None if manifest is None else str(manifest)
        if lineage == target.lineage:
            own = Stored(attempt, epoch, rows_total, text, token or "")
        elif other is None:
            replaced = target.mode == "overwrite"
            other = Owner(lineage, attempt, epoch, 0 if replaced else rows_total, text)
    return MarkerRows(own, other)


class Verdict(enum.Enum):
    APPLY = "apply"
    DONE = "done"


def decide(found: MarkerRows, target: Target, epoch: int) -> Verdict:
    """Whether an epoch is to be applied. Raises RunError (E0804) for a fenced writer."""
    _refuse_fenced(found, target)
    if found.own is None:
        return Verdict.APPLY
    return Verdict.DONE if found.own.epoch >= epoch else Verdict.APPLY


def _refuse_fenced(found: MarkerRows, target: Target) -> None:
    if found.other is not None:
        raise fenced_by_other(target.step, f"table '{target.table}'")
    if found.own is not None:
        newest = found.own.attempt, found.own.token
        refuse_older(target.step, (target.attempt, target.token), newest)


def rewound(stored: Stored, target: Target, epoch: int, *, can_rewind: bool) -> Stored | None:
    """The marker as it must be before writers follow from `epoch`; None when it may stay.

    Also takes the marker over for this attempt, so that a writer left over from an older one finds
    itself fenced. Raises CheckpointError (E0705) when the rows cannot be taken back.
    """
    _refuse_fenced(MarkerRows(stored), target)
    if stored.epoch > epoch and not can_rewind:
        raise CheckpointError(
            f"the destination of step '{target.step}' holds epoch {stored.epoch}, and the run goes on "
            f"from epoch {epoch}: its appended rows cannot be taken back",
            code="E0705",
            step=target.step,
            help="run with --fresh, after looking at what the table holds",
        )
    back = min(stored.epoch, epoch)
    if (stored.attempt, stored.token, stored.epoch) == (target.attempt, target.token, back):
        return None
    return Stored(
        target.attempt,
        back,
        stored.rows_total,
        stored.manifest if back == stored.epoch else None,
        target.token,
    )


def first_marker(target: Target, epoch: int) -> Stored:
    """The marker of a lineage that has written nothing yet."""
    return Stored(target.attempt, epoch, 0, None, target.token)


def values(target: Target, stored: Stored, now: str) -> tuple[Any, ...]:
    """The marker row, as MARKER_COLUMNS are."""
    return (
        target.lineage,
        target.step,
        stored.attempt,
        stored.epoch,
        stored.rows_total,
        stored.manifest,
        now,
        stored.token,
        target.workflow,
        target.place,
    )
