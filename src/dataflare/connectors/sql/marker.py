"""The marker row: which epoch of which lineage a database holds. Pure decisions; SQL text only.

Always true:
- rows and marker move in one transaction;
- the marker of a lineage and step never goes down, except by `rewound` before any writer opens;
- an attempt that saw a newer one writes nothing any more.
"""

from __future__ import annotations

import enum

from msgspec import Struct

from dataflare.errors import CheckpointError, RunError

MARKER_TABLE = "_dataflare_epochs"
MARKER_COLUMNS = ("lineage", "step", "attempt", "epoch", "rows_total", "manifest", "committed_at")
MARKER_DDL = (
    f"create table if not exists {MARKER_TABLE} (lineage text not null, step text not null, "
    "attempt bigint not null, epoch bigint not null, rows_total bigint not null, manifest text, "
    "committed_at text not null, primary key (lineage, step))"
)


class Stored(Struct, frozen=True):
    """A marker row. rows_total: rows this lineage and step have written so far."""

    attempt: int
    epoch: int
    rows_total: int
    manifest: str | None


class Verdict(enum.Enum):
    APPLY = "apply"
    DONE = "done"


def decide(stored: Stored | None, attempt: int, epoch: int, step: str) -> Verdict:
    """Whether an epoch is to be applied. Raises RunError (E0804) for a fenced writer."""
    if stored is None:
        return Verdict.APPLY
    if stored.attempt > attempt:
        raise RunError(
            f"step '{step}' is fenced: attempt {stored.attempt} of this run has taken over "
            f"from attempt {attempt}",
            code="E0804",
            step=step,
            help="let the newer attempt go on; this one has nothing left to do",
        )
    return Verdict.DONE if stored.epoch >= epoch else Verdict.APPLY


def rewound(
    stored: Stored, attempt: int, epoch: int, step: str, *, can_rewind: bool
) -> Stored | None:
    """The marker as it must be before writers follow from `epoch`; None when it may stay.

    Also takes the marker over for this attempt, so that a writer left over from an older one finds
    itself fenced. Raises CheckpointError (E0705) when the rows cannot be taken back.
    """
    decide(stored, attempt, epoch, step)
    if stored.epoch > epoch and not can_rewind:
        raise CheckpointError(
            f"the destination of step '{step}' holds epoch {stored.epoch}, and the run goes on from "
            f"epoch {epoch}: its appended rows cannot be taken back",
            code="E0705",
            step=step,
            help="run with --fresh, after looking at what the table holds",
        )
    back = min(stored.epoch, epoch)
    if (stored.attempt, stored.epoch) == (attempt, back):
        return None
    return Stored(
        attempt, back, stored.rows_total, stored.manifest if back == stored.epoch else None
    )
