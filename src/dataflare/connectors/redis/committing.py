"""Commit epochs: the rows of their redo files and the marker, in transactions of Redis.

An epoch is written in parts, so that the server is not held up for long. Each part is one transaction with the marker,
which says how many rows of the epoch are there.

Always true:
- after a crash, a row of an epoch is there if and only if the marker counts it;
- the marker is watched, so that an attempt that was replaced by a newer one, or by another state folder, writes
  nothing;
- after any error the marker is read again before anything is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import polars as pl
from msgspec.structs import replace
from redis.exceptions import RedisError, WatchError

from dataflare.connectors.redis.commands import transaction_of
from dataflare.connectors.redis.connection import connected
from dataflare.connectors.redis.destination_config import RedisDestinationConfig
from dataflare.connectors.redis.errors import redis_errors, translated
from dataflare.errors import CheckpointError, DataFlareError, Retry, SystemError_
from dataflare.sdk.context import DestinationContext
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import (
    Committable,
    Committer,
    Epoch,
    Marker,
    Owner,
    fenced_by_other,
    refuse_older,
)
from dataflare.sdk.in_flight import limit_of
from dataflare.sdk.sql import redo
from dataflare.sdk.threads import in_thread

_PART_ROWS, _PART_BYTES = 5_000, 4 << 20
_STRUCTURES = {"stream": b"stream", "list": b"list"}


class MarkerRecord(msgspec.Struct, frozen=True):
    """What Redis has of a lineage's rows. part: how many rows of the epoch after `epoch` are there."""

    lineage: str
    attempt: int
    token: str
    epoch: int
    part: int
    rows_total: int
    manifest: str | None = None

    def owner(self) -> Owner:
        return Owner(self.lineage, self.attempt, self.epoch, self.rows_total, self.manifest)


def marker_key(context: DestinationContext, place: str) -> str:
    """The key of the marker: one for each workflow, step and place, whatever the lineage."""
    name = context.workflow or context.lineage
    digest = hashlib.sha256(place.encode()).hexdigest()[:12]
    return f"_dataflare:epoch:{name}:{context.step}:{digest}"


class EpochCommitter(Committer):
    """place: what is written, to show and to tell owners apart."""

    def __init__(
        self, config: RedisDestinationConfig, context: DestinationContext, place: str
    ) -> None:
        self._config, self._context, self._place = config, context, place
        self._key = marker_key(context, place)
        self._client = connected(config)
        self._limit = limit_of(context.step, config.server, 1)
        self._keyed = bool(config.key)
        self._rows = 0

    # -- the marker --------------------------------------------------------------------------------

    async def _read(self) -> MarkerRecord | None:
        with redis_errors(self._config.server):
            raw = await self._client.get(self._key)
        return None if raw is None else msgspec.json.decode(raw, type=MarkerRecord)

    def _is_ours(self, record: MarkerRecord | None) -> bool:
        return record is not None and record.lineage == self._context.lineage

    def _checked(self, record: MarkerRecord | None) -> MarkerRecord | None:
        """The own marker. Raises RunError (E0804) where another attempt or lineage has taken over."""
        context = self._context
        if record is None:
            return None
        if record.lineage != context.lineage:
            raise fenced_by_other(context.step, self._place)
        refuse_older(context.step, (context.attempt, context.token), (record.attempt, record.token))
        return record

    async def marker(self) -> Marker | None:
        record = await self._read()
        if record is None or not self._is_ours(record):
            return None
        self._rows = record.rows_total
        is_empty = record.rows_total == 0 and record.part == 0
        return Marker(record.epoch, record.attempt, record.manifest, is_empty or self._keyed)

    async def owner(self) -> Owner | None:
        record = await self._read()
        if record is None or self._is_ours(record) or not self._context.workflow:
            return None
        return record.owner()

    def _record(self, epoch: int, rows_total: int, part: int = 0) -> MarkerRecord:
        context = self._context
        return MarkerRecord(
            context.lineage, context.attempt, context.token, epoch, part, rows_total
        )

    async def _write(self, record: MarkerRecord) -> None:
        with redis_errors(self._config.server):
            await self._client.set(self._key, msgspec.json.encode(record))

    # -- beginnings --------------------------------------------------------------------------------

    async def supersede(self, epoch: int) -> None:
        record = await self._read()
        if not self._is_ours(record):
            await self._write(self._record(epoch, 0))

    async def recover(self, epoch: int, committables: Sequence[Committable]) -> None:
        await in_thread(redo.clear_after, self._context.redo, epoch)
        own = self._checked(await self._read())
        kept = sum(int(c.data["rows_total"]) for c in committables) if committables else 0
        self._rows = kept
        if own is None:
            await self._write(self._record(0 if committables else epoch, 0))
            return
        ahead = own.epoch > epoch or (own.epoch == epoch and own.part > 0)
        if ahead and not self._keyed and (own.rows_total or own.part):
            raise CheckpointError(
                f"the destination of step '{self._context.step}' contains rows after checkpoint {epoch}, and the run "
                f"continues from there: they cannot be removed from {self._place}",
                code="E0705",
                step=self._context.step,
                help="check the rows, then run with --fresh",
            )
        there = min(own.epoch, epoch)
        await self._write(
            replace(
                own,
                attempt=self._context.attempt,
                token=self._context.token,
                epoch=there,
                part=0 if ahead else own.part,
                manifest=own.manifest if there == own.epoch else None,
            )
        )

    # -- epochs ------------------------------------------------------------------------------------

    async def commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        own = self._checked(await self._read())
        if own is not None and own.epoch >= epoch.number:
            return
        files = [redo.RedoFile.of(c) for c in committables]
        total = sum(int(c.data["rows_total"]) for c in committables)
        fresh = sum(file.rows for file in files)
        own = own or self._record(0, 0)
        self._check_rows(own, total - fresh)
        done = own.part
        parts = self._parts(files, done)
        while (frame := await in_thread(next, parts, None)) is not None:
            done += frame.height
            own = await self._apply(own, replace(own, part=done), frame)
            crash_point("redis.commit.after_part")
        last = replace(own, epoch=epoch.number, part=0, rows_total=total, manifest=epoch.manifest)
        await self._apply(own, last, None)
        self._rows = total
        await in_thread(redo.clear_before, self._context.redo, epoch.number)

    def _check_rows(self, own: MarkerRecord, before: int) -> None:
        """Raises CheckpointError (E0705) where rows that were committed are not there."""
        if own.rows_total < before:
            raise CheckpointError(
                f"Redis at {self._config.server} says that step '{self._context.step}' has written "
                f"{own.rows_total:,} rows, and {before:,} were committed: it has lost data",
                code="E0705",
                step=self._context.step,
                notes=["the server was started without its data, or with an older copy"],
                help="check the rows, then run with --fresh; 'appendfsync always' keeps what was answered",
            )

    def _parts(self, files: Sequence[redo.RedoFile], done: int) -> Iterator[pl.DataFrame]:
        """The messages after the first `done`, in parts. Each part ends where the one before would have ended."""
        for file in files:
            for frame in redo.frames(self._context.redo, file):
                skipped = min(done, frame.height)
                done -= skipped
                frame = frame.slice(skipped)
                if not frame.height:
                    continue
                average = int(frame["value"].bin.size().fill_null(0).sum()) // frame.height + 1
                rows = max(1, min(_PART_ROWS, _PART_BYTES // average))
                yield from frame.iter_slices(rows)

    async def _apply(
        self, before: MarkerRecord, after: MarkerRecord, frame: pl.DataFrame | None
    ) -> MarkerRecord:
        """Write messages and the marker in one transaction."""
        commands = (
            ()
            if frame is None
            else await in_thread(lambda: list(transaction_of(self._config, frame)))
        )
        with redis_errors(self._config.server):
            async with (
                self._limit.turn(len(commands) + 1),
                self._client.pipeline(transaction=True) as pipe,
            ):
                await pipe.watch(self._key)
                raw = await pipe.get(self._key)
                found = None if raw is None else msgspec.json.decode(raw, type=MarkerRecord)
                if found != before:
                    self._checked(found)
                    if found is not None or before.epoch or before.part:
                        raise self._changed()
                if frame is not None:
                    await self._check_types(pipe, frame)
                pipe.multi()
                for command in commands:
                    pipe.execute_command(*command)
                pipe.set(self._key, msgspec.json.encode(after))
                try:
                    answers = await pipe.execute(raise_on_error=False)
                except WatchError as error:
                    self._checked(await self._read())
                    raise self._changed() from error
            refused = [answer for answer in answers if isinstance(answer, RedisError)]
            if refused:
                # Redis has done the other commands: without this the rows would count as written.
                await self._client.set(self._key, msgspec.json.encode(before))
                raise self._half_done(refused[0])
        return after

    async def _check_types(self, pipe: Any, frame: pl.DataFrame) -> None:
        """Raises where a key has another structure, before anything is written."""
        wanted = _STRUCTURES.get(self._config.kind)
        if wanted is None:
            return
        for key in frame["target"].unique():
            found = await pipe.type(key)
            if found not in (b"none", wanted):
                raise SystemError_(
                    f"the key '{key}' of Redis at {self._config.server} is a {found.decode()}, not a "
                    f"{self._config.kind}",
                    code="E0604",
                    step=self._context.step,
                    help=f"look at '{self._config.kind}', or delete the key",
                )

    def _changed(self) -> DataFlareError:
        return SystemError_(
            f"the marker '{self._key}' of Redis at {self._config.server} has changed while step "
            f"'{self._context.step}' wrote",
            code="E0607",
            step=self._context.step,
            retry=Retry.LATER,
            help="let one run write at a time",
        )

    def _half_done(self, error: RedisError) -> DataFlareError:
        made = translated(error, self._config.server)
        return SystemError_(
            f"{self._place} took only some of the rows of a transaction: {made.message}",
            code="E0600",
            step=self._context.step,
            help="fix the cause; the rows of this part are written again by the next run, and some are then there "
            "twice",
        )

    async def published(self) -> Mapping[str, Any]:
        return {"place": self._place, "rows": self._rows}

    async def aclose(self) -> None:
        await self._client.aclose()
