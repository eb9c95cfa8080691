"""The marker of a run in a lake's table: a JSON text in a slot of the table. A slot belongs to a workflow and
a step, so the lineage that wrote last is in it. Pure."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from msgspec import Struct

from dataflare.sdk.destination import Owner
from dataflare.sdk.sql.marker import MarkerRow, MarkerRows
from dataflare.sdk.sql.store import Target


class LakeMarker(Struct, frozen=True, omit_defaults=True):
    """staged: files of an overwrite that are not in the table yet. run: the tag in the names of the files
    that have rows of this run of a mirror. seen: how many rows these files have."""

    lineage: str
    step: str
    workflow: str
    attempt: int
    epoch: int
    rows_total: int
    manifest: str | None
    token: str = ""
    staged: tuple[Any, ...] = ()
    run: str = ""
    seen: int = 0

    @property
    def row(self) -> MarkerRow:
        return MarkerRow(self.attempt, self.epoch, self.rows_total, self.manifest, self.token)

    def text(self) -> str:
        return msgspec.json.encode(self).decode()


def slot_of(target: Target) -> str:
    """The name of the slot, fit for names of files and properties."""
    owner = target.workflow or target.lineage
    return hashlib.sha256(f"{owner}\0{target.step}".encode()).hexdigest()[:16]


def parse(text: str | None) -> LakeMarker | None:
    return None if text is None else msgspec.json.decode(text.encode(), type=LakeMarker)


def of_row(target: Target, row: MarkerRow) -> LakeMarker:
    return LakeMarker(
        target.lineage,
        target.step,
        target.workflow,
        row.attempt,
        row.epoch,
        row.rows_total,
        row.manifest,
        row.token,
    )


def rows_of(target: Target, marker: LakeMarker | None) -> MarkerRows:
    """What the slot says to the lineage of the target."""
    if marker is None:
        return MarkerRows()
    if marker.lineage == target.lineage:
        return MarkerRows(own=marker.row)
    rows = 0 if target.mode == "overwrite" else marker.rows_total
    owner = Owner(marker.lineage, marker.attempt, marker.epoch, rows, marker.manifest)
    return MarkerRows(other=owner)
