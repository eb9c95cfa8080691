"""The table `_dataflare_epochs`: which epochs a database holds, and which INSERT is under way.

ClickHouse has no transactions over several statements. So an epoch is written in chunks, one INSERT each, and
before each of them its number is noted here. After a crash only that one chunk is in doubt; it is sent again
with the same deduplication token, and the server drops it if it is there.

Always true: the newest note of a lineage and step is the one with the greatest `version`, which grows with
attempt, epoch and chunk.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import polars as pl
from msgspec import Struct

from dataflare.connectors.clickhouse.connection import Client, literal
from dataflare.connectors.clickhouse.encode import arrow_stream
from dataflare.connectors.clickhouse.errors import Refused
from dataflare.connectors.clickhouse.tables import split_name
from dataflare.connectors.clickhouse.types import Kind, escaped
from dataflare.model.types import INT64, STRING, UINT64
from dataflare.sdk.sql.marker import MARKER_TABLE, MarkerRow, MarkerRows, marker_rows
from dataflare.sdk.sql.store import Target

SWAP = -1
"""As a chunk: the new rows of an overwrite take the place of the table."""
_NO_TABLE = 60
_TEXTS = ("lineage", "step", "manifest", "committed_at", "token", "workflow", "place", "doing_what")
_NUMBERS = ("attempt", "epoch", "rows_total", "doing_epoch", "doing_chunk")


class Doing(Struct, frozen=True):
    """An INSERT that was begun. epoch, chunk: which. what: the checksum of the epoch's rows, or the UUID of a
    staging table. blocks: how many blocks the table had been given before, None if that is not known. at_ms: the server's
    time before it; None in a note of an older version. age_s: how long ago."""

    epoch: int
    chunk: int
    what: str
    blocks: int | None = None
    at_ms: int | None = None
    age_s: float = 0.0

    @property
    def text(self) -> str:
        """`what` and the rest, as a note has it."""
        if self.at_ms is None:
            return self.what
        return f"{self.what} {'-' if self.blocks is None else self.blocks} {self.at_ms}"

    @classmethod
    def of(cls, epoch: int, chunk: int, text: str, noted_age_s: float, now_ms: int) -> Doing:
        """noted_age_s: how long ago the note was written."""
        what, *rest = text.split(" ")
        if not rest:
            return cls(epoch, chunk, what, age_s=noted_age_s)
        blocks, at_ms = rest
        known = None if blocks == "-" else int(blocks)
        return cls(epoch, chunk, what, known, int(at_ms), (now_ms - int(at_ms)) / 1000)


class Notes(Struct, frozen=True):
    """What is known of a target."""

    markers: MarkerRows
    doing: Doing | None = None
    version: int = 0


class Ledger:
    """The notes of one target. Blocking. Raises the client's errors."""

    def __init__(self, target: Target, database: str) -> None:
        self._target = target
        folder, _ = split_name(target.table, database)
        self._place = f"{escaped(folder)}.{escaped(MARKER_TABLE)}"

    def read(self, client: Client) -> Notes:
        target = self._target
        same = f"lineage = {literal(target.lineage)}"
        if target.workflow:
            same = (
                f"({same} or (workflow = {literal(target.workflow)} and place = "
                f"{literal(target.place)}))"
            )
        try:
            found = client.rows(
                "select lineage, attempt, epoch, rows_total, manifest, token, doing_epoch, doing_chunk, "
                "doing_what, version, dateDiff('millisecond', parseDateTime64BestEffort(committed_at, 3, 'UTC'), "
                f"now64(3, 'UTC')), toUnixTimestamp64Milli(now64(3)) from {self._place} final where step = {literal(target.step)} and {same} "
                "order by committed_at desc"
            )
        except Refused as error:
            if error.number != _NO_TABLE:
                raise
            return Notes(MarkerRows())
        markers = marker_rows(target, [(*row[:4], row[4] or None, row[5]) for row in found])
        own = next((row for row in found if row[0] == target.lineage), None)
        if own is None:
            return Notes(markers)
        doing = Doing.of(own[6], own[7], own[8], own[10] / 1000, int(own[11])) if own[6] else None
        return Notes(markers, doing, int(own[9]))

    def write(self, client: Client, notes: Notes, row: MarkerRow, doing: Doing | None) -> Notes:
        """Replace the note of the target's lineage and step."""
        target = self._target
        version = max(notes.version + 1, row.attempt << 40)
        values: dict[str, Any] = {
            "lineage": target.lineage, "step": target.step, "attempt": row.attempt,
            "epoch": row.epoch, "rows_total": row.rows_total, "manifest": row.manifest or "",
            "committed_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "token": row.token, "workflow": target.workflow, "place": target.place,
            "doing_epoch": doing.epoch if doing else 0, "doing_chunk": doing.chunk if doing else 0,
            "doing_what": doing.text if doing else "", "version": version,
        }  # fmt: skip
        types = dict.fromkeys(_TEXTS, STRING) | dict.fromkeys(_NUMBERS, INT64) | {"version": UINT64}
        kinds = {n: Kind("String") for n in _TEXTS} | {n: Kind("Int64") for n in _NUMBERS}
        kinds["version"] = Kind("UInt64")
        frame = pl.DataFrame(
            [values], schema={name: type_.to_polars() for name, type_ in types.items()}
        )
        names = ", ".join(map(escaped, types))
        body = arrow_stream(frame, types, kinds)
        try:
            client.insert(self._place, names, body, None)
        except Refused as error:
            if error.number != _NO_TABLE:
                raise
            client.run(self._creation())
            client.insert(self._place, names, body, None)
        return Notes(MarkerRows(row, notes.markers.other), doing, version)

    def _creation(self) -> str:
        columns = [f"{name} String" for name in _TEXTS] + [f"{name} Int64" for name in _NUMBERS]
        return (
            f"create table if not exists {self._place} ({', '.join(columns)}, version UInt64) "
            "engine = ReplacingMergeTree(version) order by (lineage, step)"
        )

    def supersede(self, client: Client) -> None:
        """Delete the notes of other lineages of the target's workflow, step and table."""
        target = self._target
        client.run(
            f"delete from {self._place} where step = {literal(target.step)} and lineage != "
            f"{literal(target.lineage)} and workflow = {literal(target.workflow)} and place = "
            f"{literal(target.place)}"
        )


def token_of(target: Target, checksum: str, epoch: int, chunk: int) -> str:
    """The deduplication token of a chunk: the same for the same rows in the same place."""
    return json.dumps([target.lineage, target.step, target.written, epoch, chunk, checksum])
