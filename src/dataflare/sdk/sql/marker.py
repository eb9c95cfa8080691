"""The marker row: it records which epoch of which lineage a database contains. Pure decisions; SQL
text only.

Always true:
- rows and marker change in one transaction;
- the epoch of a lineage and step never decreases, except by `rewind_marker` before any writer opens;
- an attempt that has read the marker of a newer attempt does not write any more;
- the steps of an epoch that share a marker table have the epoch's manifest once, in one of their rows;
- a table has one owner: a lineage that finds another lineage of the same workflow and step in the marker table does not write, unless it has taken the table over (`TableStore.supersede`).
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Sequence, Set
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from dataflare.errors import CheckpointError
from dataflare.sdk.destination import Owner, fenced_by_other, refuse_older

if TYPE_CHECKING:
    from dataflare.sdk.sql.store import Target

MARKER_TABLE = "_dataflare_epochs"
ADDED_COLUMNS = ("token", "workflow", "place")
"""Columns that marker tables of earlier versions do not have."""
MARKER_COLUMNS = (
    *("lineage", "step", "attempt", "epoch", "rows_total", "manifest", "committed_at"),
    *ADDED_COLUMNS,
)


class MarkerRow(Struct, frozen=True):
    """A marker row. rows_total: rows this lineage and step have written so far. token: of the attempt."""

    attempt: int
    epoch: int
    rows_total: int
    manifest: str | None
    token: str = ""


class MarkerRows(Struct, frozen=True):
    """The rows of a marker table for a target: own, of its lineage, and the newest one of another
    lineage of the same workflow, step and table."""

    own: MarkerRow | None = None
    other: Owner | None = None


def creation(table: str = MARKER_TABLE, *, text: str = "text", name: str = "text") -> str:
    """The statement that creates the marker table. text, name: the declarations of its columns of long
    text, and of names, which must be fit for a key."""
    return (
        f"create table if not exists {table} (lineage {name} not null, step {name} not null, "
        f"attempt bigint not null, epoch bigint not null, rows_total bigint not null, manifest {text}, "
        f"committed_at {name} not null, token {name}, workflow {name}, place {name}, "
        "primary key (lineage, step))"
    )


def widening(columns: Collection[str], table: str = MARKER_TABLE) -> list[str]:
    """The statements that add the newer columns to a marker table of an earlier version."""
    return [f"alter table {table} add column {n} text" for n in ADDED_COLUMNS if n not in columns]


def selection(
    targets: Sequence[Target],
    columns: Set[str],
    table: str = MARKER_TABLE,
    mark: str = "?",
    text: str = "text",
    *,
    manifests: bool = True,
) -> tuple[str, list[str]]:
    """The query for `marker_rows_by_step` and its parameters. targets: of one run. columns: of the marker table. text: the
    type of text in a cast. manifests: whether the manifests are read too."""
    lineage, workflow = targets[0].lineage, targets[0].workflow
    is_new = columns >= set(ADDED_COLUMNS)
    manifest = "null"
    if manifests:
        manifest = "r.manifest"
        if is_new:
            same = " and ".join(f"m.{n} = r.{n}" for n in ("lineage", "epoch", "token"))
            manifest = f"coalesce({manifest}, (select max(m.manifest) from {table} m where {same}))"
        manifest = f"cast({manifest} as {text})"
    names = "r.token, r.step, r.place" if is_new else "null, r.step, null"
    steps = ", ".join([mark] * len(targets))
    query = (
        f"select r.lineage, r.attempt, r.epoch, r.rows_total, {manifest}, {names} "
        f"from {table} r where (r.lineage = {mark} and r.step in ({steps}))"
    )
    parameters = [lineage, *(target.step for target in targets)]
    if not workflow or not is_new:
        return query, parameters
    places = " or ".join([f"(r.step = {mark} and r.place = {mark})"] * len(targets))
    parameters += [
        workflow,
        *(value for target in targets for value in (target.step, target.place)),
    ]
    return (
        f"{query} or (r.workflow = {mark} and ({places})) order by r.committed_at desc",
        parameters,
    )


def marker_rows(target: Target, rows: Iterable[Sequence[Any]]) -> MarkerRows:
    """The marker rows of a target. rows: of its step, its lineage or its place, newest first: lineage, attempt,
    epoch, rows_total, manifest, token."""
    own, other = None, None
    for lineage, attempt, epoch, rows_total, manifest, token in rows:
        text = None if manifest is None else str(manifest)
        if lineage == target.lineage:
            own = MarkerRow(attempt, epoch, rows_total, text, token or "")
        elif other is None:
            replaced = target.mode == "overwrite"
            other = Owner(lineage, attempt, epoch, 0 if replaced else rows_total, text)
    return MarkerRows(own, other)


def marker_rows_by_step(
    targets: Iterable[Target], rows: Sequence[tuple[Any, ...]]
) -> dict[str, MarkerRows]:
    """The marker rows of each target, by its step. rows: the result of a `selection`."""
    return {
        target.step: marker_rows(
            target,
            [
                values
                for *values, step, place in rows
                if step == target.step and (values[0] == target.lineage or place == target.place)
            ],
        )
        for target in targets
    }


class Verdict(enum.Enum):
    APPLY = "apply"
    DONE = "done"


def decide(markers: MarkerRows, target: Target, epoch: int) -> Verdict:
    """Whether to apply an epoch. Raises RunError (E0804) for a fenced writer."""
    _refuse_fenced(markers, target)
    if markers.own is None:
        return Verdict.APPLY
    return Verdict.DONE if markers.own.epoch >= epoch else Verdict.APPLY


def _refuse_fenced(markers: MarkerRows, target: Target) -> None:
    if markers.other is not None:
        raise fenced_by_other(target.step, f"table '{target.table}'")
    if markers.own is not None:
        newest = markers.own.attempt, markers.own.token
        refuse_older(target.step, (target.attempt, target.token), newest)


def rewind_marker(
    row: MarkerRow, target: Target, epoch: int, *, can_rewind: bool
) -> MarkerRow | None:
    """The marker that must be written before writers continue from `epoch`; None if it need not
    change. It also takes the marker over for this attempt, so that a remaining writer of an older
    attempt is fenced. Raises CheckpointError (E0705) if the rows cannot be removed.
    """
    _refuse_fenced(MarkerRows(row), target)
    if row.epoch > epoch and not can_rewind:
        raise CheckpointError(
            f"the destination of step '{target.step}' contains checkpoint {row.epoch}, and the run "
            f"continues from checkpoint {epoch}: the appended rows cannot be removed",
            code="E0705",
            step=target.step,
            help="check the rows of the table, then run with --fresh",
        )
    back = min(row.epoch, epoch)
    if (row.attempt, row.token, row.epoch) == (target.attempt, target.token, back):
        return None
    return MarkerRow(
        target.attempt,
        back,
        row.rows_total,
        row.manifest if back == row.epoch else None,
        target.token,
    )


def next_marker(
    markers: MarkerRows, target: Target, epoch: int, *, label: str, rows_before: int, committed: int
) -> MarkerRow:
    """The marker row that the commit of an epoch continues from, taken over for this attempt. label: of the
    database. rows_before: the rows that the run had written before the epoch. committed: the last epoch
    that the database is known to have. Raises CheckpointError (E0705) if it does not have them."""
    if decide(markers, target, epoch) is Verdict.DONE:
        raise CheckpointError(
            f"checkpoint {epoch} of step '{target.step}' is in {label} already, by another writer",
            code="E0705",
            step=target.step,
            help="let one run write at a time; to start over, use --fresh",
        )
    row = markers.own or first_marker(target, 0)
    if row.rows_total < rows_before or row.epoch < committed:
        raise CheckpointError(
            f"{label} has {row.rows_total:,} rows of step '{target.step}', and {rows_before:,} were "
            "committed: it was reset to an earlier state",
            code="E0705",
            step=target.step,
            notes=["a backup was restored, or a standby without the last transactions took over"],
            help="check the rows of the table, then run with --fresh",
        )
    return replace(row, attempt=target.attempt, token=target.token)


def first_marker(target: Target, epoch: int) -> MarkerRow:
    """The marker of a lineage that has not written rows yet."""
    return MarkerRow(target.attempt, epoch, 0, None, target.token)


def values(target: Target, row: MarkerRow) -> tuple[Any, ...]:
    """The values of the marker row, written now, in the order of MARKER_COLUMNS."""
    return (
        target.lineage,
        target.step,
        row.attempt,
        row.epoch,
        row.rows_total,
        row.manifest,
        datetime.now(UTC).isoformat(timespec="milliseconds"),
        row.token,
        target.workflow,
        target.place,
    )


def with_one_manifest(rows: Sequence[tuple[Target, MarkerRow]]) -> list[tuple[Target, MarkerRow]]:
    """The marker rows of one marker table, of which only one has the manifest of an epoch. `selection` finds it."""
    seen: set[tuple[str, int, str]] = set()
    written = []
    for target, row in rows:
        epoch = target.lineage, row.epoch, row.token
        written.append((target, replace(row, manifest=None) if epoch in seen else row))
        if row.manifest is not None:
            seen.add(epoch)
    return written
