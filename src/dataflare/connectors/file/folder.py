"""A folder of parts as a destination: parts are staged in a hidden folder; renames publish them.

Always true: a published name contains lineage, epoch, subtask and number, so the same rows never
appear under two names; staged names never end in a data extension. Under `overwrite` nothing is
renamed before the last epoch: then the new parts are renamed first and the old files are removed
after that. So for a moment both exist, but never none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from msgspec import Struct

from dataflare.connectors.file.buffering import EncodeBuffer
from dataflare.connectors.file.errors import file_errors
from dataflare.connectors.file.fence import Fence
from dataflare.connectors.file.growing import Encoder, GrowingFile
from dataflare.connectors.file.marker import FileMarker
from dataflare.connectors.file.names import UNPUBLISHED
from dataflare.connectors.file.partitions import folder_name
from dataflare.connectors.file.parts import PartsFolder
from dataflare.connectors.file.staged import StagedContent, looks
from dataflare.errors import CheckpointError
from dataflare.model.batch import SharedDataBatch
from dataflare.sdk.crashpoints import crash_point
from dataflare.sdk.destination import (
    Committable,
    Committer,
    Epoch,
    Marker,
    Owner,
    Writer,
    WriteStats,
)
from dataflare.sdk.durable_files import sync_folder
from dataflare.sdk.threads import in_thread

Grow = Callable[[Path], GrowingFile]


class Part(Struct):
    """A part being written. partition: its folder's relative name, "" for none."""

    partition: str
    file: GrowingFile


class FolderWriter(Writer):
    """One subtask's parts. A part ends with its epoch, or when it is large enough."""

    takes_at_once = True

    as_written: Callable[[pl.DataFrame], pl.DataFrame] | None = None
    """Makes the rows that are written of changes."""
    """Whether the files have the kinds of rows, in a column."""

    def __init__(
        self,
        folder: PartsFolder,
        encoder: Encoder,
        grow: Grow,
        subtask: int,
        attempt: int,
        *,
        partition_by: Sequence[str],
        rows_max: int,
        bytes_max: int,
        part_rows_max: int | None,
        part_bytes_max: int | None,
        total_parts: int,
        total_rows: int,
    ) -> None:
        self._folder, self._encoder, self._grow = folder, encoder, grow
        self._subtask, self._attempt = subtask, attempt
        self._partition_by = list(partition_by)
        self._part_rows_max, self._part_bytes_max = part_rows_max, part_bytes_max
        self._total_parts, self._total_rows = total_parts, total_rows
        self._open: dict[str, Part] = {}
        self._finished_parts: list[Part] = []
        self._opened = 0
        rows_max = min(rows_max, part_rows_max or rows_max)
        self._buffer = EncodeBuffer(self._encode, self._append, rows_max, bytes_max)

    async def write_batch(self, batch: SharedDataBatch) -> WriteStats:
        frame = batch.frame if self.as_written is None else self.as_written(batch.frame)
        await self._buffer.add(frame, batch.num_bytes)
        return WriteStats(batch.num_rows, batch.num_bytes)

    def _encode(self, frame: pl.DataFrame) -> list[tuple[str, Any, int]]:
        """For each partition: its name, the encoded rows to append, and their number."""
        return [
            (partition, self._encoder.encode(rows), rows.height)
            for partition, rows in self._divided(frame)
        ]

    def _append(self, pieces: list[tuple[str, Any, int]]) -> None:
        with file_errors(self._folder.path, "writing"):
            for partition, encoded, rows in pieces:
                part = self._open.get(partition)
                if part is None:
                    part = self._open[partition] = self._new_part(partition)
                part.file.add(encoded, rows)
                if self._is_full(part.file):
                    self._finish(self._open.pop(partition))

    def _finish(self, part: Part) -> None:
        """A part that is full before its epoch ends."""
        part.file.finish()
        part.file.sync()
        part.file.close()
        self._finished_parts.append(part)

    def _is_full(self, file: GrowingFile) -> bool:
        return (self._part_rows_max is not None and file.rows >= self._part_rows_max) or (
            self._part_bytes_max is not None and file.length >= self._part_bytes_max
        )

    def _divided(self, frame: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
        if not self._partition_by:
            yield "", frame
            return
        keys = [
            pl.col(name).cast(pl.String).alias(f"__dataflare_{name}") for name in self._partition_by
        ]
        names = [f"__dataflare_{name}" for name in self._partition_by]
        keyed = frame.with_columns(keys).drop(self._partition_by)
        groups = keyed.partition_by(names, as_dict=True, include_key=False, maintain_order=True)
        for values, rows in groups.items():
            folders = [
                folder_name(column, None if value is None else str(value))
                for column, value in zip(self._partition_by, values, strict=True)
            ]
            yield "/".join(folders), rows

    def _new_part(self, partition: str) -> Part:
        self._opened += 1
        self._folder.make(self._folder.staging)
        name = f"open-{self._attempt}-{self._subtask}-{self._opened}{UNPUBLISHED}"
        return Part(partition, self._grow(self._folder.staging / name))

    async def prepare(self, epoch: int, *, final: bool) -> Committable | None:
        return await self._buffer.call(lambda: self._prepare(epoch))

    def _prepare(self, epoch: int) -> Committable:
        parts: list[list[Any]] = []
        folders: set[Path] = set()
        with file_errors(self._folder.path, "writing"):
            for part in self._open.values():
                part.file.finish()
            crash_point("file.prepare.before_fsync")
            for part in self._open.values():
                part.file.sync()
                part.file.close()
            finished = [*self._finished_parts, *self._open.values()]
            for number, part in enumerate(finished):
                name = self._folder.part_name(epoch, self._subtask, number)
                name = f"{part.partition}/{name}" if part.partition else name
                length, digest = part.file.length, part.file.digest
                staged = self._folder.staged(name, digest)
                self._folder.make(staged.parent)
                os.replace(part.file.path, staged)
                folders.add(staged.parent)
                parts.append([name, length, part.file.rows, digest, looks(staged)])
            for each in folders:
                sync_folder(each)
            crash_point("file.prepare.after_fsync")
        self._open, self._finished_parts = {}, []
        self._total_parts += len(parts)
        self._total_rows += sum(part[2] for part in parts)
        return Committable(
            self._subtask,
            {"parts": parts, "total_parts": self._total_parts, "total_rows": self._total_rows},
        )

    async def aclose(self) -> None:
        await self._buffer.aclose()
        for part in self._open.values():
            part.file.close()


class FolderCommitter(Committer):
    """Publishes parts by renaming them; under overwrite only in the last epoch."""

    def __init__(self, folder: PartsFolder, fence: Fence, marker: FileMarker) -> None:
        self._folder, self._fence, self._marker = folder, fence, marker
        self._files = self._rows = self._bytes = 0
        self._thorough = False

    async def marker(self) -> Marker | None:
        own = None if self._folder.overwrite else await in_thread(self._marker.own_record)
        if own is None or own.manifest is None:
            return None
        return Marker(own.epoch, own.attempt, own.manifest, can_rewind=True)

    async def owner(self) -> Owner | None:
        return await in_thread(self._marker.owner, replaces=self._folder.overwrite)

    async def supersede(self, epoch: int) -> None:
        await in_thread(self._marker.write, epoch, 0, None)

    async def is_empty(self) -> bool:
        return not self._folder.overwrite and await in_thread(self._is_empty)

    def _is_empty(self) -> bool:
        own = self._marker.own_record()
        if own is not None and not own.rows:
            return False
        return all(self._folder.epoch_of(file.name) is None for file in self._folder.data_files())

    async def recover(self, epoch: int, committables: Sequence[Committable]) -> None:
        self._thorough = True  # another process may have prepared the parts that are committed now
        await in_thread(self._recover, epoch, not committables)

    def _recover(self, epoch: int, begins: bool) -> None:
        folder = self._folder
        with (
            file_errors(folder.path, "writing"),
            self._fence.lock(begins=True),
            self._marker.lock(),
        ):
            self._marker.begin(epoch)
            paths = {p.path for p in folder.waiting() if _upto(folder, p.name, epoch)}
            paths |= set() if begins else set(folder.staging.glob("base-*"))
            folder.clear_staging(paths)
            if folder.path.is_dir():
                for file in list(folder.data_files()):
                    number = folder.epoch_of(file.name)
                    if number is not None and number > epoch:
                        file.unlink()

    async def begin(self, epoch: int) -> None:
        if self._folder.overwrite:
            with file_errors(self._folder.path, "writing"):
                await in_thread(self._folder.note_base, epoch)

    async def commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        await in_thread(self._commit, epoch, committables)
        self._thorough = False

    def _commit(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        folder = self._folder
        with file_errors(folder.path, "writing"), self._fence.lock(), self._marker.lock():
            own = self._marker.own_record()
            if own is not None and own.manifest is not None and own.epoch >= epoch.number:
                self._rows = own.rows
                return
            if not folder.overwrite:
                self._publish([part for c in committables for part in c.data["parts"]])
            elif epoch.final:
                self._replace_all(epoch, committables)
            if epoch.final:
                folder.make(folder.path)
                folder.clear_staging()
            if folder.path.is_dir():
                rows = sum(c.data["total_rows"] for c in committables)
                rows = max(rows, own.rows if own is not None else 0)
                self._marker.write(epoch.number, rows, epoch.manifest)

    def _publish(self, parts: Sequence[Sequence[Any]]) -> None:
        """Rename each part to its name. A part that was renamed already is skipped."""
        folder = self._folder
        changed: set[Path] = set()
        waiting = {part.name: part.path for part in folder.waiting()}
        crash_point("file.commit.before_publish")
        for number, (name, length, rows, *content) in enumerate(parts):
            if number:
                crash_point("file.commit.between_parts")
            staged, published = waiting.get(name), folder.path / name
            if staged is not None:
                _content(length, content).check(staged, thorough=self._thorough)
                folder.make(published.parent)
                os.replace(staged, published)
                changed.add(published.parent)
            elif not _content(length, content).is_in(published):
                raise CheckpointError(
                    f"the staged rows of {published} are gone",
                    code="E0704",
                    help="someone removed them; start over with --fresh",
                )
            self._files, self._rows = self._files + 1, self._rows + rows
            self._bytes += length
        for parent in changed:
            sync_folder(parent)
        crash_point("file.commit.after_publish")

    def _replace_all(self, epoch: Epoch, committables: Sequence[Committable]) -> None:
        folder = self._folder
        base = folder.base()
        old: list[Path] = []
        published: list[Path] = []
        for file in folder.data_files():
            number = folder.epoch_of(file.name)
            replaced = number is None or (base is not None and number <= base)
            (old if replaced and base is not None else published).append(file)
        waiting = [part for part in folder.waiting() if _upto(folder, part.name, epoch.number)]
        expected = sum(c.data["total_parts"] for c in committables)
        if len(waiting) + len(published) < expected:
            raise CheckpointError(
                f"staged parts of {folder.path} are gone: {len(waiting) + len(published)} of {expected}",
                code="E0704",
                help="someone removed them; start over with --fresh",
            )
        sizes = [[p.name, p.path.stat().st_size, 0, p.digest, None] for p in waiting]
        self._files, self._rows, self._bytes = (
            len(published),
            0,
            sum(f.stat().st_size for f in published),
        )
        self._publish(sizes)
        self._rows = sum(c.data["total_rows"] for c in committables)
        for file in old:
            file.unlink(missing_ok=True)

    async def published(self) -> Mapping[str, Any]:
        return {
            "path": str(self._folder.path),
            "rows": self._rows,
            "bytes": self._bytes,
            "files": self._files,
        }


def _content(length: int, fields: Sequence[Any]) -> StagedContent:
    """The content of a part, from its entry in a committable. fields: digest and stat, which follow
    name, length and rows; older entries do not have them."""
    digest, stat = fields if fields else (None, None)
    return StagedContent(length, digest, stat=tuple(stat) if stat else None)


def _upto(folder: PartsFolder, name: str, epoch: int) -> bool:
    number = folder.epoch_of(name)
    return number is not None and number <= epoch
